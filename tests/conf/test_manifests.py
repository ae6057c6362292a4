"""The Kubernetes manifests and the crontab line: fields that exist, of the right types, and commands that are valid.

The field lists are those of ray-operator/apis/ray/v1 in ray-project/kuberay v1.7.0 (rayjob_types.go,
raycluster_types.go, raycronjob_types.go) and of batch/v1 and core/v1 in Kubernetes 1.31, cut down to what the manifests
use or might.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.load import load_config
from conf.schema import JobConfig
from conf.vqa import VqaConfig
from jobs.caption import main as caption
from jobs.shared.job_arguments import SHIPPED_CHECKPOINT
from jobs.vqa import make_parser as vqa_parser

ROOT = Path(__file__).parents[2]
K8S = ROOT / "conf" / "k8s"

# A type, {field: its schema, "field!": required}, [schema of each item], or {...: schema of every value}.
RESOURCES = {"requests": {...: str}, "limits": {...: str}}
ENV_FROM = [{"secretRef!": {"name!": str}}]
CONTAINER = {
    "name!": str,
    "image!": str,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str}],
    "envFrom": ENV_FROM,
    "resources": RESOURCES,
    "volumeMounts": [{"name!": str, "mountPath!": str}],
}
POD = {
    "spec!": {
        "containers!": [CONTAINER],
        "restartPolicy": str,
        "terminationGracePeriodSeconds": int,
        "volumes": [{"name!": str, "emptyDir": {"medium": str, "sizeLimit": str}}],
    }
}
GROUP = {"rayStartParams!": {...: str}, "template!": POD}
RAY_CLUSTER = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "authOptions": {"mode": str, "secretName": str},
    "headGroupSpec!": GROUP,
    "workerGroupSpecs": [
        {
            **GROUP,
            "groupName!": str,
            "replicas": int,
            "minReplicas!": int,
            "maxReplicas!": int,
            "idleTimeoutSeconds": int,
        }
    ],
}
RAY_JOB = {
    "entrypoint": str,
    "submissionMode": str,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "preRunningDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "suspend": bool,
    "rayClusterSpec": RAY_CLUSTER,
    "clusterSelector": {...: str},
}
ON_EXIT_CODES = {"containerName": str, "operator!": str, "values!": [int]}
BATCH_JOB = {
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "podFailurePolicy": {"rules!": [{"action!": str, "onExitCodes": ON_EXIT_CODES}]},
    "template!": POD,
}
CRON_JOB = {
    "schedule!": str,
    "timeZone": str,
    "suspend": bool,
    "concurrencyPolicy": str,
    "startingDeadlineSeconds": int,
    "successfulJobsHistoryLimit": int,
    "failedJobsHistoryLimit": int,
    "jobTemplate!": {"spec!": BATCH_JOB},
}
RAY_CRON_JOB = {"schedule!": str, "timeZone": str, "suspend": bool, "jobTemplate!": RAY_JOB}

MANIFESTS = {
    "rayjob.yaml":     ("ray.io/v1", "RayJob", RAY_JOB),
    "raycronjob.yaml": ("ray.io/v1", "RayCronJob", RAY_CRON_JOB),
    "cronjob.yaml":    ("batch/v1", "CronJob", CRON_JOB),
}  # fmt: skip


def problems(value: Any, schema: Any, place: str) -> list[str]:
    """Everything in which a value differs from its schema."""
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return [f"{place}: not a list"]
        return [p for number, item in enumerate(value) for p in problems(item, schema[0], f"{place}[{number}]")]
    if isinstance(schema, Mapping):
        if not isinstance(value, dict):
            return [f"{place}: not a map"]
        fields = {str(name).rstrip("!"): inner for name, inner in schema.items() if name is not ...}
        found = [
            f"{place}.{name[:-1]}: missing" for name in schema if str(name).endswith("!") and name[:-1] not in value
        ]
        for name, item in value.items():
            inner = schema.get(..., fields.get(name))
            found += [f"{place}.{name}: unknown"] if inner is None else problems(item, inner, f"{place}.{name}")
        return found
    return [] if type(value) is schema else [f"{place}: {value!r} is no {schema.__name__}"]


def load(name: str) -> dict[str, Any]:
    content = yaml.safe_load((K8S / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_every_manifest_is_checked() -> None:
    assert {path.name for path in K8S.glob("*.yaml")} == MANIFESTS.keys()


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_has_only_fields_that_exist(name: str) -> None:
    version, kind, spec = MANIFESTS[name]
    manifest = load(name)
    assert (manifest["apiVersion"], manifest["kind"]) == (version, kind)
    assert not problems(manifest, {"apiVersion!": str, "kind!": str, "metadata!": {"name!": str}, "spec!": spec}, name)


def test_the_check_finds_mistakes() -> None:
    spec = load("rayjob.yaml")["spec"]
    del spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
    found = problems({**spec, "backofLimit": 1, "suspend": "no"}, RAY_JOB, "spec")
    assert sorted(found) == [
        "spec.backofLimit: unknown",
        "spec.rayClusterSpec.headGroupSpec.rayStartParams: missing",
        "spec.suspend: 'no' is no bool",
    ]


def commands() -> dict[str, list[str]]:
    """Where a command stands -> its words."""
    pod = load("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    line = (ROOT / "conf" / "crontab").read_text(encoding="utf-8").splitlines()[-1]
    cron = shlex.split(line)
    assert "%" not in line, "cron takes it for the end of the line"
    return {
        "rayjob": shlex.split(load("rayjob.yaml")["spec"]["entrypoint"]),
        "raycronjob": shlex.split(load("raycronjob.yaml")["spec"]["jobTemplate"]["entrypoint"]),
        "cronjob": [*pod["command"], *pod["args"]],
        "crontab": ["deed", *cron[cron.index(".venv/bin/deed") + 1 : cron.index(">>/data/answers.log")]],
    }


@pytest.mark.parametrize("place", ["rayjob", "raycronjob", "cronjob", "crontab"])
def test_its_command_is_valid(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the images and crontab's line have the project in /app
    words = [word.replace("/app/", f"{ROOT}/") for word in commands()[place]]
    program, command, *arguments = words
    assert program == "deed"
    config: JobConfig | VqaConfig
    if command == "caption":
        seen: list[JobConfig] = []
        monkeypatch.setattr("jobs.caption.run_and_summarise", lambda config, *_, **__: seen.append(config) or 0)
        assert caption(arguments) == 0
        [config] = seen
    else:
        assert command == "vqa"
        options = vqa_parser().parse_args(arguments)
        config = load_config(options.config, options.set, VqaConfig)
    assert Path(config.model.checkpoint).resolve() == SHIPPED_CHECKPOINT
    assert config.source.paths[0].startswith(("s3://BUCKET/", "/data/"))
    assert config.output.path.startswith(("s3://BUCKET/", "/data/"))


@pytest.mark.parametrize("name", MANIFESTS)
def test_engine_and_preprocessing_fit_on_one_worker(name: str) -> None:
    """One GPU and CPUs left over: an actor reserves both."""
    manifest = yaml.safe_dump(load(name))
    assert "nvidia.com/gpu: '1'" in manifest
    assert "image: REGISTRY/deed:1" in manifest
    workers = [line for line in manifest.splitlines() if "cpu: '8'" in line]
    assert len(workers) == 2, "requests and limits"
