"""003-144: the rules are well formed, and let nobody but the gateway reach an engine."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from perch.engine.config import EngineConfig
from perch.server.config import GatewayConfig

FOLDER = Path(__file__).parents[2] / "deploy/network"
GATEWAY, ENGINE = GatewayConfig().port, EngineConfig().port


def policies() -> dict[str, Any]:
    listed = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {policy["metadata"]["name"]: policy["spec"] for policy in listed}


def test_kubernetes_lets_clients_to_the_gateway_and_the_gateway_to_the_engine() -> None:
    gateway, engine = policies()["perch-gateway"], policies()["perch-engine"]
    assert [port["port"] for rule in gateway["ingress"] for port in rule["ports"]] == [GATEWAY]
    [rule] = engine["ingress"]
    assert [port["port"] for port in rule["ports"]] == [ENGINE]
    [source] = rule["from"]
    assert source["podSelector"] == gateway["podSelector"]
    inside = {
        peer
        for rule in gateway["egress"]
        for to in rule.get("to", [])
        if "ipBlock" in to
        for peer in to["ipBlock"]["except"]
    }
    assert "169.254.0.0/16" in inside, "the cloud's metadata is out of reach"


def test_aws_lets_only_the_gateways_group_to_the_engine() -> None:
    groups = json.loads((FOLDER / "aws-security-groups.json").read_text(encoding="utf-8"))
    [clients] = groups["gateway"]
    assert (clients["FromPort"], clients["ToPort"]) == (GATEWAY, GATEWAY)
    [engine] = groups["engine"]
    assert (engine["FromPort"], engine["ToPort"]) == (ENGINE, ENGINE)
    assert "IpRanges" not in engine


def test_nftables_opens_nothing_but_the_gateway_and_the_way_in() -> None:
    rules = (FOLDER / "nftables.conf").read_text(encoding="utf-8")
    assert "policy drop" in rules
    assert set(map(int, re.findall(r"dport (\d+) accept", rules))) == {22, GATEWAY}
