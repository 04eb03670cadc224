"""Tools for language models that are made of both documents: by fastmcp in this process, and by openapi-mcp-server in a process
that speaks over its standard streams. Each has a tool that creates a task, and each tool says what it is for."""

import asyncio
import json
import os
from pathlib import Path

import httpx
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StdioTransport

CREATE = {"type": "o3-std-text-to-video", "prompt": "A paper boat on a pond", "duration": 3}
PLANES = {"data": ("DATA_URL", "API_KEY"), "admin": ("ADMIN_URL", "OPERATOR_TOKEN")}


async def use(name, plane, server):
    async with Client(server) as client:
        tools = {tool.name: tool for tool in await client.list_tools()}
        silent = [tool.name for tool in tools.values() if not tool.description]
        assert tools and not silent, silent
        wanted, arguments = ("generate", CREATE) if plane == "data" else ("show_caller", {})
        # Some makers write names in their own way.
        same = [tool for tool in tools if tool.replace("-", "_").lower() == wanted]
        assert len(same) == 1, sorted(tools)
        answer = await client.call_tool(same[0], arguments)
        text = answer.content[0].text
        told = json.loads(text[text.index("{"):])
        if plane == "data":
            print(f"{name}: {told['data']['task_id']}, {told['data']['consumed_credits']} credits")
        else:
            assert told["role"] == "operator", told


async def main():
    for plane, (url, token) in PLANES.items():
        url, authorization = os.environ[url], f"Bearer {os.environ[token]}"
        document = json.loads(Path(f"{plane}.json").read_text())
        async with httpx.AsyncClient(base_url=url, headers={"authorization": authorization}) as http:
            await use("fastmcp", plane, FastMCP.from_openapi(document, client=http, name=plane))
        environment = {
            "API_BASE_URL": url,
            "OPENAPI_SPEC_PATH": f"{plane}.json",
            "API_HEADERS": f"authorization:{authorization}",
            "PATH": os.environ["PATH"],
        }
        server = StdioTransport("openapi-mcp-server", ["--tools", "all"], env=environment)
        await use("openapi-mcp-server", plane, server)


asyncio.run(main())
