-- The balance row says that its organisation is deleted: creates are judged by that row alone, and a gateway that has not heard of the
-- deletion yet must not grant any.
alter table org_balance add column deleted boolean not null default false;

update org_balance balance set deleted = true
from org where org.org_id = balance.org_id and org.deleted_at is not null;
