-- What is kept of a create's request while its hold is unfinished, for the operators' eyes. Both are null once it has ended.
alter table content
    -- a short excerpt of the request, as JSON: no upload, no query of a link
    add column excerpt text,
    -- the name of each field of the request, and the SHA-256 of its value in URL-safe base64: what the vendor echoes can be
    -- compared with it
    add column digests jsonb;

-- The excerpts that are there: those of unfinished holds, and for a minute those of holds that have ended.
create index content_with_excerpt on content (org_id, hold_id) where excerpt is not null;
