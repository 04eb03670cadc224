create or replace view reporting.gateways as
select 'gw_' || replace(gateway.gateway_id::text, '-', '') as gateway, gateway.started_at, gateway.alive_until,
       gateway.alive_until > now() as alive
from gateway;
