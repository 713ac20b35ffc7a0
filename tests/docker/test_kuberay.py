"""The Kubernetes manifests, without a cluster: against published schemas, and what they may let in.

KubeRay's schemas are not part of this project: SOFTNCE_KUBERAY_SCHEMAS names a folder with the files of its
`config/crd/bases`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from docker_files import DOCKER, compose, is_pinned, pins, program, project, settings, values

from softnce_ray.study.file import parse_study
from softnce_ray.study.problems import StudyError

FOLDER = DOCKER / "kuberay"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
FILES = [name for name in KUSTOMIZATION["resources"]] + ["rayjob.yaml"]
SECRET = settings(FOLDER / "secrets.env.example")
OF_RAY = "ray.io/v1"


@cache
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """All objects as they are written, by kind and name."""
    documents = [
        document for name in FILES for document in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    ]
    named = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(named) == len(documents)
    return named


def of(kind: str, name: str) -> Any:
    return objects()[kind, name]["spec"]


@cache
def pods() -> dict[str, dict[str, Any]]:
    """Every pod template, by the object and, within a RayCluster, its group."""
    found = {}
    for (kind, name), document in objects().items():
        spec = document.get("spec", {})
        if kind == "RayCluster":
            found["head"] = spec["headGroupSpec"]["template"]
            found |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
        elif kind == "RayJob":
            found["submitter"] = spec["submitterPodTemplate"]
        elif "template" in spec:
            found[name] = spec["template"]
    return found


@cache
def containers() -> dict[str, dict[str, Any]]:
    found = {}
    for name, pod in pods().items():
        (found[name],) = pod["spec"]["containers"]
    return found


def environment(name: str) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in containers()[name].get("env", [])}


# --- schemas ---


@pytest.mark.parametrize("key", sorted(key for key in objects() if objects()[key]["apiVersion"] != OF_RAY), ids=str)
def test_kubernetes_knows_every_field(key: tuple[str, str]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    validate.validate(objects()[key], validate.latest_version(), strict=True)


def closed(schema: Any) -> Any:
    """A CRD's schema as JSON Schema that refuses unknown fields, as the API server does when asked to be strict."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {
        name: {field: closed(part) for field, part in value.items()} if name == "properties" else closed(value)
        for name, value in schema.items()
        if not name.startswith("x-kubernetes") and name not in ("default", "description", "format", "nullable")
    }
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


@pytest.mark.parametrize("key", sorted(key for key in objects() if objects()[key]["apiVersion"] == OF_RAY), ids=str)
def test_kuberay_knows_every_field(key: tuple[str, str]) -> None:
    folder = os.environ.get("SOFTNCE_KUBERAY_SCHEMAS")
    if not folder:
        pytest.skip("SOFTNCE_KUBERAY_SCHEMAS names no folder with KubeRay's CRDs")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((Path(folder) / f"ray.io_{key[0].lower()}s.yaml").read_text(encoding="utf-8"), loader)
    (version,) = (made for made in definition["spec"]["versions"] if made["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    errors = list(jsonschema.Draft7Validator(schema).iter_errors(objects()[key]))
    assert not errors, [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in errors]


def test_a_misspelt_field_would_be_found() -> None:
    schema = closed({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}})
    jsonschema.Draft7Validator(schema).validate({"a": {"b": 1}})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({"a": {"c": 1}})


def test_kustomize_puts_it_together(tmp_path: Path) -> None:
    made = shutil.copytree(FOLDER, tmp_path / "kuberay")
    (made / "secrets.env").write_text("".join(f"{name}=x\n" for name in SECRET), encoding="utf-8")
    done = subprocess.run([program("kubectl"), "kustomize", str(made)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    assert len(documents) == len(objects()) - 1 + 3, "all but the RayJob, with a Secret and two ConfigMaps"
    assert {document["metadata"].get("namespace") for document in documents if document["kind"] != "Namespace"} == {
        KUSTOMIZATION["namespace"]
    }
    (cluster,) = (document for document in documents if document["kind"] == "RayCluster")
    images = [image for image in values(cluster, "image")]
    assert images == [containers()[name]["image"] for name in ("head", "cpu", "gpu")]
    assert "<<" not in done.stdout


# --- versions ---


def test_ray_and_the_images_have_the_tested_versions() -> None:
    assert of("RayCluster", "softnce")["rayVersion"] == pins()["ray"]
    version = project()["version"]
    for name, container in containers().items():
        if container["image"].startswith("softnce-ray"):
            expected = "softnce-ray-cuda" if name == "gpu" else "softnce-ray"
            assert container["image"] == f"{expected}:{version}"
        else:
            assert is_pinned(container["image"]), name
    assert {image["newTag"] for image in KUSTOMIZATION["images"]} == {version}


def test_foreign_images_are_those_of_compose() -> None:
    for name in ("postgres", "s3"):
        assert containers()[name]["image"] == compose()["services"][name]["image"]


# --- secrets ---


def test_every_secret_is_in_the_example_and_used() -> None:
    assert KUSTOMIZATION["secretGenerator"] == [{"name": "softnce", "envs": ["secrets.env"]}]
    used = {reference["key"] for document in objects().values() for reference in values(document, "secretKeyRef")}
    assert {reference["name"] for document in objects().values() for reference in values(document, "secretKeyRef")} == {
        "softnce"
    }
    assert used | {"auth_token"} == SECRET.keys(), "KubeRay reads auth_token itself"
    assert set(SECRET.values()) == {""}
    assert "/kuberay/secrets.env" in (DOCKER / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_no_secret_stands_in_a_manifest() -> None:
    assert not [name for kind, name in objects() if kind == "Secret"]
    for name in containers():
        for variable, value in environment(name).items():
            if re.search("TOKEN|PASSWORD|SECRET|KEY", variable):
                assert "secretKeyRef" in value, f"{name}: {variable}"


def test_ray_wants_the_token() -> None:
    assert of("RayCluster", "softnce")["authOptions"] == {"mode": "token", "secretName": "softnce"}


# --- pods ---


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_gains_nothing(name: str) -> None:
    spec, container = pods()[name]["spec"], containers()[name]
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not [port for port in container.get("ports", []) if "hostPort" in port]
    # The head's account is the operator's, for the autoscaler.
    assert name == "head" or spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_is_bounded_and_takes_no_variables_from_services(name: str) -> None:
    assert pods()[name]["spec"]["enableServiceLinks"] is False, "MLFLOW_PORT=tcp://… stops MLflow"
    resources = containers()[name]["resources"]
    assert {"cpu", "memory"} <= resources["limits"].keys() and {"cpu", "memory"} <= resources["requests"].keys()


def test_long_running_pods_are_probed_without_what_the_image_lacks() -> None:
    for name in ("head", "cpu", "gpu"):
        for probe in ("readinessProbe", "livenessProbe"):
            assert containers()[name][probe]["exec"]["command"][0] == "http-ok", (
                "else the operator adds its own, by wget"
            )
    for name in ("mlflow", "postgres", "s3"):
        assert "readinessProbe" in containers()[name]


def test_nodes_have_what_a_study_needs_under_the_names_of_compose() -> None:
    theirs = compose()["services"]["head"]["environment"]
    from_operator = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    from_config = settings(FOLDER / "s3.env")
    head = environment("head")
    assert head.keys() | from_config.keys() | from_operator == theirs.keys()
    for name, value in (head | from_config).items():
        assert isinstance(value, Mapping) or value == theirs[name], name
    for group in ("cpu", "gpu"):
        assert environment(group).items() < head.items()
        assert head.keys() - environment(group).keys() == {"SOFTNCE_STORE"}
    for group in ("head", "cpu", "gpu", "mlflow", "buckets"):
        assert containers()[group]["envFrom"] == [{"configMapRef": {"name": "s3"}}]


def test_the_heads_store_is_a_volume() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in containers()["head"]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pods()["head"]["spec"]["volumes"]}
    claimed = volumes[mounts[environment("head")["SOFTNCE_STORE"]]]["persistentVolumeClaim"]["claimName"]
    assert ("PersistentVolumeClaim", claimed) in objects()


def test_a_gpu_pod_asks_for_one() -> None:
    assert containers()["gpu"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in containers()["cpu"]["resources"]["limits"]


# --- who may call whom ---


def test_services_are_for_inside_only() -> None:
    services = [document["spec"] for (kind, _), document in objects().items() if kind == "Service"]
    assert services and all(service.get("type", "ClusterIP") == "ClusterIP" for service in services)
    assert of("RayCluster", "softnce")["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_every_pod_has_a_policy_and_nobody_is_let_in_by_default() -> None:
    assert of("NetworkPolicy", "nobody-by-default") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    named = {
        document["spec"]["podSelector"]["matchLabels"]["app"]
        for (kind, name), document in objects().items()
        if kind == "NetworkPolicy" and name != "nobody-by-default"
    }
    apps = {pod["metadata"]["labels"]["app"] for pod in pods().values()}
    assert named == apps - {"buckets"}, "nobody calls the one that makes buckets"


def test_addresses_are_those_of_services() -> None:
    for (kind, name), document in objects().items():
        if kind == "Service":
            assert document["spec"]["selector"]["app"] in pods()
            (port,) = document["spec"]["ports"]
            assert port["port"] in [each["containerPort"] for each in containers()[name]["ports"]]
    (address,) = {environment(name)["MLFLOW_TRACKING_URI"] for name in ("head", "cpu", "gpu")}
    assert address == f"http://mlflow:{of('Service', 'mlflow')['ports'][0]['port']}"
    endpoint = settings(FOLDER / "s3.env")["AWS_ENDPOINT_URL"]
    assert endpoint == f"http://s3:{of('Service', 's3')['ports'][0]['port']}"


# --- the study ---


def test_the_job_runs_a_study_that_the_head_has() -> None:
    job = of("RayJob", "quickstart")
    assert ("RayCluster", job["clusterSelector"]["ray.io/cluster"]) in objects()
    (path,) = re.findall(r"^softnce-ray launch (\S+)$", job["entrypoint"])
    (studies,) = (made for made in KUSTOMIZATION["configMapGenerator"] if made["name"] == "studies")
    assert Path(path).name in [Path(name).name for name in studies["files"]]
    mounts = {mount["mountPath"]: mount["name"] for mount in containers()["head"]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pods()["head"]["spec"]["volumes"]}
    assert volumes[mounts[str(Path(path).parent)]]["configMap"]["name"] == "studies"


def test_shipped_studies_are_right_but_for_their_corpus_which_lies_in_the_store(tmp_path: Path) -> None:
    for path in (FOLDER / "studies").iterdir():
        text = path.read_text(encoding="utf-8")
        (corpus,) = re.findall(r"^corpus: (s3://softnce/\S+)$", text, re.MULTILINE)
        with pytest.raises(StudyError) as refused:
            parse_study(text.replace(corpus, str(tmp_path / "nowhere")), source=path.name)
        assert [problem.key for problem in refused.value.problems] == ["corpus"]
