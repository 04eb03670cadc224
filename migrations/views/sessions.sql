create or replace view reporting.sessions as
select session.state, session.waits_for, session.sessions, session.longest_seconds
from reporting.sessions_of_owner() session;
