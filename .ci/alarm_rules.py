"""What can be said of deploy/prometheus and deploy/alertmanager without running anything but promtool and amtool.

Beside what these check by themselves: that every alert has a runbook and a dashboard, a case in which it fires and one in
which it stays quiet; that each of its limits matters to these cases (a limit that is moved must make one of them fail); that
its texts can be written out; and that every metric and label is one of src/metrics.rs.
"""

import copy
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import yaml
except ImportError:
    sys.exit("PyYAML is missing: install the package python3-yaml")

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy/prometheus"
ALERTMANAGER = ROOT / "deploy/alertmanager/alertmanager.yml"
SEVERITIES = {"critical", "warning", "info", "none"}
BOARDS = {"tollgate-gateway", "tollgate-money", "tollgate-organisations", "tollgate-operations"}
# What Prometheus and the client library make themselves.
FOREIGN = {
    "up": set(),
    "process_start_time_seconds": set(),
    "process_resident_memory_bytes": set(),
    "process_open_fds": set(),
    "process_max_fds": set(),
}
WORDS = set(
    "abs absent and avg bool by changes count count_over_time deriv group_left group_right histogram_quantile ignoring increase "
    "max max_over_time min min_over_time offset on or rate sum time unless without vector".split()
)


def run(*command, expect=0):
    """Runs a program; its output. Another exit code than the expected one ends the check."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != expect:
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Rules:
    """The rule files and their tests, read."""

    def __init__(self):
        self.files = {path: yaml.safe_load(path.read_text()) for path in sorted((PROMETHEUS / "rules").glob("*.yml"))}
        self.tests = {path: yaml.safe_load(path.read_text()) for path in sorted((PROMETHEUS / "tests").glob("*.yml"))}
        every = [(path, rule) for path, file in self.files.items() for group in file["groups"] for rule in group["rules"]]
        self.alerts = {rule["alert"]: (path, rule) for path, rule in every if "alert" in rule}
        self.recorded = {rule["record"]: rule for _, rule in every if "record" in rule}
        self.every = [rule for _, rule in every]
        names = [rule["alert"] for rule in self.every if "alert" in rule]
        fail_if([f"{name}: there are two of this name" for name in names if names.count(name) > 1])


def fail_if(problems):
    if problems:
        sys.exit("\n".join(problems))


def known_metrics():
    """Each metric of the table in src/metrics.rs with its labels."""
    text = (ROOT / "src/metrics.rs").read_text()
    known = dict(FOREIGN)
    for kind, name, labels in re.findall(r'^\s+(Counter|Gauge|Histogram) \w+ = "(\w+)" \[([^\]]*)\]', text, re.M):
        labels = set(re.findall(r'"(\w+)"', labels))
        for suffix in ("_bucket", "_sum", "_count") if kind == "Histogram" else ("",):
            known[name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return known


def bare(expr):
    """The expression without strings, selectors and ranges: names, numbers and operators stay where they are."""
    return re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', lambda found: " " * len(found[0]), expr)


def check_names(rules):
    """Every metric and label is one that is recorded."""
    known, problems = known_metrics(), []
    for name, rule in rules.recorded.items():
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
        known[name] = set(re.findall(r"\w+", grouped[0])) | set(rule.get("labels", {})) if grouped else set()
    for rule in rules.every:
        who, expr = rule.get("alert") or rule["record"], rule["expr"]
        labels = {"job", "instance", "version"} | set(rule.get("labels", {}))
        grouped = " ".join(re.findall(r"\b(?:by|on) \(([^)]*)\)", expr))
        text = re.sub(r"\b(?:by|on) \([^)]*\)", lambda found: " " * len(found[0]), bare(expr))
        for found in re.finditer(r"(?<![\w.:])[a-z][\w:]*", text):
            name = found[0]
            if name in WORDS:
                continue
            if name not in known:
                problems.append(f"{who}: nobody records {name}")
                continue
            labels |= known[name]
            selector = re.match(r"\{([^}]*)\}", expr[found.end():])
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector[1] if selector else ""):
                if label not in known[name] | {"job", "instance"}:
                    problems.append(f"{who}: {name} has no label {label}")
        problems += [f"{who}: no metric of it has a label {label}" for label in re.findall(r"\w+", grouped) if label not in labels]
        for text in rule.get("annotations", {}).values():
            for name in re.findall(r"(?<![\w:/-])(?:job\w*:)?tollgate_[\w:]+", text):
                if name.rstrip(":") not in known:
                    problems.append(f"{who}: its text names {name}, which nobody records")
    fail_if(problems)


def check_texts(rules):
    """Every alert says how grave it is, what happened, where to look, and what to do."""
    problems = []
    boards = ROOT / "deploy/grafana/dashboards"
    made = {json.loads(path.read_text())["uid"] for path in boards.glob("*.json")} if boards.exists() else BOARDS
    for name, (_, rule) in rules.alerts.items():
        texts = rule.get("annotations", {})
        severity = rule.get("labels", {}).get("severity", "")
        if severity not in SEVERITIES and "{{" not in severity:
            problems.append(f"{name}: severity is one of {sorted(SEVERITIES)}, not {severity!r}")
        for part in ("summary", "description", "dashboard", "runbook"):
            if not texts.get(part, "").strip():
                problems.append(f"{name}: has no {part}")
        if texts.get("dashboard", "").removeprefix("/d/") not in made:
            problems.append(f"{name}: there is no dashboard {texts.get('dashboard')}")
        found = [texts.get("runbook", "").find(part) for part in ("What it means:", "How to look:", "What to do:")]
        if -1 in found or found != sorted(found):
            problems.append(f"{name}: a runbook says what it means, how to look and what to do, in this order")
    fail_if(problems)


def firing(alert):
    return f'ALERTS{{alertname="{alert}",alertstate="firing"}}'


def cases(rules, alert):
    """The cases of an alert: file, group, and its instants with what is expected at each."""
    for path, file in rules.tests.items():
        for group in file["tests"]:
            checks = [check for check in group.get("promql_expr_test", []) if check["expr"] == firing(alert)]
            if checks:
                yield path, group, checks


def check_cases(rules):
    problems = []
    for alert in rules.alerts:
        expected = [bool(check["exp_samples"]) for _, _, checks in cases(rules, alert) for check in checks]
        problems += [f"{alert}: no case in which it fires"] * (True not in expected)
        problems += [f"{alert}: no case in which it stays quiet"] * (False not in expected)
    for path, file in rules.tests.items():
        for group in file["tests"]:
            for check in group.get("promql_expr_test", []):
                if not any(check["expr"] == firing(alert) for alert in rules.alerts):
                    problems.append(f"{path.name}: {group.get('name')}: {check['expr']} is no alert of ours")
    fail_if(problems)


def matched(rules, matchers):
    """The alerts that all of Alertmanager's matchers can match; a label that only a sample has is any."""
    found = []
    for alert, (_, rule) in rules.alerts.items():
        labels = {"alertname": alert} | {key: value for key, value in rule["labels"].items() if "{{" not in value}
        fits = []
        for matcher in matchers:
            label, how, value = re.fullmatch(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matcher).groups()
            if label in labels or label in ("severity", "needs") and label not in rule["labels"]:
                same = re.fullmatch(value if "~" in how else re.escape(value), labels.get(label, ""))
                fits.append(bool(same) != how.startswith("!"))
        if all(fits):
            found.append(alert)
    return found


def check_inhibitions(rules, config):
    """Nobody is kept from being called by what calls nobody."""
    problems = []

    def calls(alert):
        severity = rules.alerts[alert][1]["labels"]["severity"]
        return severity == "critical" or "critical" in severity and "{{" in severity

    for rule in config["inhibit_rules"]:
        sources, targets = matched(rules, rule["source_matchers"]), matched(rules, rule["target_matchers"])
        problems += [f"{ALERTMANAGER.name}: there is nothing in {rule}"] * (not sources or not targets)
        # Of a gateway that does not answer there are no figures anyhow, so this one hides nothing.
        harmless = sources == ["TollgateGatewayDown"] or 'severity!="critical"' in rule["target_matchers"]
        for source in sources if not harmless else []:
            graver = [target for target in targets if calls(target) and not calls(source)]
            problems += [f"{ALERTMANAGER.name}: {source} keeps {target} from calling anybody" for target in graver]
    return problems


def check_routes(rules):
    """Alertmanager knows only alerts and labels that there are."""
    problems, config = [], yaml.safe_load(ALERTMANAGER.read_text())
    for name in set(re.findall(r"Tollgate\w+", ALERTMANAGER.read_text())):
        if name not in rules.alerts and not any(alert.startswith(name) for alert in rules.alerts):
            problems.append(f"{ALERTMANAGER.name}: there is no alert {name}")
    for needed in re.findall(r'needs="(\w+)"', ALERTMANAGER.read_text()):
        if not any(rule["labels"].get("needs") == needed for _, rule in rules.alerts.values()):
            problems.append(f"{ALERTMANAGER.name}: no alert needs {needed}")
    problems += check_inhibitions(rules, config)
    used = {config["route"]["receiver"]} | {route["receiver"] for route in config["route"]["routes"]}
    problems += [f"{ALERTMANAGER.name}: nobody uses the receiver {one['name']}" for one in config["receivers"] if one["name"] not in used]
    fail_if(problems)
    for labels, receiver in (
        (["alertname=TollgateInvariantBroken", "severity=critical"], "pager"),
        (["alertname=TollgateDrift", "severity=warning"], "tickets"),
        (["alertname=TollgateTracesDropped", "severity=info"], "tickets"),
        (["alertname=TollgateWatchdog", "severity=none"], "watchdog"),
    ):
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(plain_alertmanager("http://localhost"))
            file.flush()
            told = run("amtool", "config", "routes", "test", f"--config.file={file.name}", *labels).split("\n")
        fail_if([f"{labels} goes to {told}, not to {receiver}"] * (receiver not in told))


def plain_alertmanager(url):
    """Our configuration with addresses in it: Debian's Alertmanager is older than url_file."""
    return re.sub(r"url_file: /run/secrets/\w+", f"url: {url}", ALERTMANAGER.read_text())


def check_programs():
    """What promtool and amtool say themselves."""
    run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    run("promtool", "check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    run("promtool", "test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yml")))
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(plain_alertmanager("http://localhost"))
        file.flush()
        run("amtool", "check-config", file.name)


def only(rules, alert, rule, work, groups=None):
    """A rule file and its cases with this alert alone, changed to `rule`; the test files."""
    path, _ = rules.alerts[alert]
    file = copy.deepcopy(rules.files[path])
    for group in file["groups"]:
        group["rules"] = [rule if one.get("alert") == alert else one for one in group["rules"] if one.get("alert", alert) == alert]
    (work / "rules.yml").write_text(yaml.safe_dump(file))
    tests = []
    for at, (test, group, checks) in enumerate(groups or cases(rules, alert)):
        head = {key: value for key, value in rules.tests[test].items() if key != "tests"}
        head |= {"rule_files": ["rules.yml"], "tests": [group]}
        tests.append(work / f"test{at}.yml")
        tests[-1].write_text(yaml.safe_dump(head))
    return tests


def mutants(rule):
    """Each limit moved a little, in both directions: a number by half (a small count by one), a time to nothing or double."""
    text = bare(rule["expr"])
    numbers = sorted({found[0] for found in re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", text)})
    for number in numbers:
        value = float(number)
        moved = [-1.0, 1.5] if value == 0 else [value - 1, value + 1] if value in (1, 2) else [value / 1.5, value * 1.5]
        for other in moved:
            expr = list(rule["expr"])
            for found in reversed(list(re.finditer(rf"(?<![\w.]){re.escape(number)}(?![\w.])", text))):
                expr[found.start():found.end()] = f"{other:g}" if other < 1e6 else f"{other:.0f}"
            yield f"{number} -> {other:g}", rule | {"expr": "".join(expr)}
    if "for" in rule:
        amount, unit = re.fullmatch(r"(\d+)([smh])", rule["for"]).groups()
        seconds = int(amount) * {"s": 1, "m": 60, "h": 3600}[unit]
        yield f"for {rule['for']} -> 0", {key: value for key, value in rule.items() if key != "for"}
        yield f"for {rule['for']} -> double", rule | {"for": f"{seconds * 2}s"}


def check_limits(rules):
    """A limit that is moved makes a case fail, or the cases are too far from it."""
    def survives(one):
        alert, what, rule = one
        with tempfile.TemporaryDirectory() as work:
            for test in only(rules, alert, rule, Path(work)):
                done = subprocess.run(["promtool", "test", "rules", test], capture_output=True, text=True)
                if done.returncode:
                    # It must be a case that failed, not a rule that is nonsense.
                    return "" if "exp:" in done.stdout + done.stderr else f"{alert}: {what}: {done.stdout}{done.stderr}"
            return f"{alert}: {what}: no case notices"

    every = [(alert, what, rule) for alert, (_, whole) in rules.alerts.items() for what, rule in mutants(whole)]
    with ThreadPoolExecutor(2) as pool:
        fail_if([problem for problem in pool.map(survives, every) if problem])
    return len(every)


def check_written_out(rules):
    """The texts of every alert with the figures of the cases in which it fires; they come back, for a look."""
    texts = {}
    for alert, (_, rule) in rules.alerts.items():
        with tempfile.TemporaryDirectory() as work:
            told = []
            for path, group, checks in cases(rules, alert):
                fires = [check for check in checks if check["exp_samples"]]
                if fires:
                    group = {key: value for key, value in group.items() if key != "promql_expr_test"}
                    group["alert_rule_test"] = [{"eval_time": check["eval_time"], "alertname": alert, "exp_alerts": []} for check in fires]
                    told.append((path, group, fires))
            # They expect nothing, so that promtool prints what there is.
            brief = copy.deepcopy(rule)
            del brief["annotations"]["runbook"]
            done = ""
            for whole in (brief, rule):
                tests = only(rules, alert, whole, Path(work), told)
                done = subprocess.run(["promtool", "test", "rules", *map(str, tests[:1] if whole is rule else tests)], capture_output=True, text=True)
                done = done.stdout + done.stderr
                if "got:" not in done or re.search(r"<error|<no value>|%!|NaN", done):
                    sys.exit(f"{alert}: its texts cannot be written out:\n{done}")
                texts.setdefault(alert, re.findall(r'(?:summary|description)=(".*?")[,}]', done))
    return texts


def check():
    rules = Rules()
    check_programs()
    check_names(rules)
    check_texts(rules)
    check_cases(rules)
    check_routes(rules)
    texts = check_written_out(rules)
    print(f"{len(rules.recorded)} recorded series, {len(rules.alerts)} alerts: each fires, stays quiet, and has its texts")
    return rules, texts


if __name__ == "__main__":
    found, written = check()
    if "--texts" in sys.argv:
        for alert, lines in written.items():
            print(alert, *lines, sep="\n  ")
    if "--no-limits" not in sys.argv:
        print(f"{check_limits(found)} moved limits are all noticed")
