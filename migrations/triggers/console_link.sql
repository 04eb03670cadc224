-- Invitations only: an admin makes them. Using one up, or forgetting it, is no change that somebody made.
create or replace trigger console_link_audit after insert on console_link
    for each row when (new.user_id is not null) execute function audit_change('user', 'user_id');
