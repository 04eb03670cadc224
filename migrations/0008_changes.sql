-- Changes that people make: counters that tell gateways of them, and a log of who made them.

-- A counter that has moved tells a gateway that what it has cached is out of date. Polled, and announced by NOTIFY.
create table epoch (
    name  text primary key,
    value bigint not null
);
insert into epoch (name, value) values ('auth', 1), ('prices', 1);

-- Who did what to what, from where. Written by triggers (function audit_change), in the transaction of the change itself:
-- nothing that changes an audited table can leave it out.
create table audit_log (
    audit_id    bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    actor       text not null,
    -- the caller's address; null: not over the network
    address     text,
    -- the operation of the management API; else what happened to the row
    action      text not null,
    request_id  text,
    target_kind text not null check (target_kind in ('org', 'team', 'user', 'key', 'entry', 'hold', 'operator_token', 'budget',
                    'identity_provider', 'identity', 'price_factor', 'price_book', 'price', 'signing_key')),
    target_id   text not null,
    org_id      uuid,
    -- of an update only what it changed; never a secret, nor its digest
    before      jsonb,
    after       jsonb
);
create index audit_log_by_org on audit_log (org_id, audit_id);
create index audit_log_by_target on audit_log (target_id, audit_id);
