-- Callers that leave before their create is answered, and send it again (contract, "Repeating a create"): what a repetition is found by.
-- The index is made while creates wait: milliseconds for as many creates as can be under way.

-- of a create without an idempotency key that is HELD: the fingerprint of its body; of those that gateways made before: null
alter table open_task add column unanswered bytea;
create index open_task_unanswered on open_task (org_id, unanswered) where unanswered is not null;

-- Creates without an idempotency key whose caller had gone, or had closed its side, before the answer. Noted by the gateway that
-- the caller was connected to; deleted when a repetition has got the answer, or when nobody can ask for it any more.
create table gone_caller (
    org_id      uuid not null,
    user_id     uuid not null,
    fingerprint bytea not null,
    hold_id     uuid not null,
    noted_at    timestamptz not null default clock_timestamp(),
    primary key (org_id, user_id, fingerprint, hold_id)
);
create index gone_caller_by_age on gone_caller (noted_at);

-- Whether a gateway lives, and has noted all callers that it has seen leave: others ask by a higher number, and it answers with the
-- number that it was asked by. A gateway that dies while its callers wait never answers.
create table sign_of_life (
    gateway_id uuid primary key,
    asked      bigint not null default 0,
    heard      bigint not null default 0
);
