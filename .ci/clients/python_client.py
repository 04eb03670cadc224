"""The clients that openapi-python-client has made of both documents: an organisation's key is made by one of them, and creates a
task with the other."""

import os
import time

from python_admin import AuthenticatedClient as AdminClient
from python_admin.api.credits_ import grant_credits
from python_admin.api.keys import create_key
from python_admin.api.organisations import create_org, list_orgs
from python_admin.api.users import create_user
from python_admin.models import GrantBody, KeyBody, OrgBody, UserBody
from python_data import AuthenticatedClient
from python_data.api.tasks import generate, quote, status
from python_data.models import CreateBody

with AdminClient(os.environ["ADMIN_URL"], os.environ["OPERATOR_TOKEN"], raise_on_unexpected_status=True) as admin:
    org = create_org.sync(client=admin, body=OrgBody(name="made by a client"))
    found = list_orgs.sync(client=admin, name="made by a client")
    assert [item.org_id for item in found.items] == [org.org_id], found
    grant = GrantBody(credits_=1000, reason="a client's first credits")
    posted = [grant_credits.sync(org.org_id, client=admin, body=grant, idempotency_key="once") for _ in range(2)]
    assert posted[0].entry_id == posted[1].entry_id and posted[0].available == 1000, posted
    user = create_user.sync(org.org_id, client=admin, body=UserBody(name="somebody"))
    key = create_key.sync(org.org_id, client=admin, body=KeyBody(user_id=user.user_id, name="a client's"))

with AuthenticatedClient(os.environ["DATA_URL"], key.api_key, raise_on_unexpected_status=True) as client:
    body = CreateBody(type_="o3-std-text-to-video", prompt="A paper boat on a pond", duration=3)
    price = quote.sync(client=client, body=body).data.credits_
    task = generate.sync(client=client, body=body, idempotency_key="once").data
    assert task.consumed_credits == price, task
    deadline = time.monotonic() + 60
    while (state := status.sync(client=client, task_id=task.task_id).data).status != "SUCCESS":
        assert state.status != "FAILED" and time.monotonic() < deadline, state
        time.sleep(0.2)
    print(f"{task.task_id}: {state.status}, {state.consumed_credits} credits")
    refused = generate.sync(client=client, body=CreateBody(type_="o3-std-text-to-video", prompt=" "))
    assert refused.error == "INVALID_PROMPT", refused
