"""The operations against an API server in a dictionary."""

from __future__ import annotations

import json
import re

import pytest

from mlsched.adapters.kubernetes.announcements import LEASES, SETTINGS_ANNOTATION
from mlsched.adapters.kubernetes.errors import ApiError, NoAnswerError
from mlsched.api.watching import JobWatch
from mlsched.errors import (
    ConfigError,
    ConflictError,
    NotFoundError,
    PermanentError,
    SpecError,
    UnreachableError,
)
from tests.unit.api.clusters.conftest import JOBS, mljob

NODES = "/api/v1/nodes"
ELEMENTS = "mlsched.io/cancel-elements"


def node(name, cpu="4"):
    return {
        "metadata": {"name": name},
        "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def test_a_job_is_created_with_its_user_and_a_name_of_its_own(served, submit):
    found = submit()
    (job,) = found["jobs"]
    assert found["created"]
    assert re.fullmatch(r"train-\w{5}", job["name"])
    assert (job["id"], job["state"], job["user"]) == (f"team/{job['name']}", "PENDING", "alice")
    written = served[1].objects[f"{JOBS}/{job['name']}"]
    assert written["metadata"]["annotations"]["mlsched.io/user"] == "alice"
    assert written["spec"] == {"command": ["python", "train.py"], "image": "i:1"}


def test_a_name_that_is_taken_is_refused(submit):
    submit(name="mine")
    with pytest.raises(ConflictError, match="there is a job mine in namespace team already"):
        submit(name="mine")


def test_a_dry_run_with_a_name_that_is_taken_says_so(served, submit):
    submit(name="mine")
    document = {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "metadata": {"name": "mine"},
        "spec": {"command": ["true"], "image": "i:1"},
    }
    with pytest.raises(ConflictError, match="there is a job mine in namespace team already"):
        served[0].call("preview", document=document)


def test_why_tells_of_a_record_that_nobody_can_go_on_with(served):
    served[1].put(mljob("odd", status={"state": "RUNNING", "attempt": 7}))
    details = served[0].call("why", job="odd")["details"]
    assert any("the controller leaves it alone" in line for line in details)


def test_twice_the_same_key_is_one_job(served, submit):
    first, second = submit(key="k"), submit(key="k")
    assert (first["created"], second["created"]) == (True, False)
    assert first["jobs"][0]["name"] == second["jobs"][0]["name"]
    assert len(served[1].objects) == 1
    assert submit(key="other")["jobs"][0]["name"] != first["jobs"][0]["name"]


def test_a_key_of_another_job_of_the_same_name_is_a_conflict(submit):
    submit(name="mine", key="a")
    with pytest.raises(ConflictError):
        submit(name="mine", key="b")


@pytest.mark.parametrize("error", [NoAnswerError("broke"), ApiError(504, "Timeout", "too long")])
def test_a_create_whose_answer_was_lost_makes_one_job(served, submit, error):
    served[1].lost = [error]
    assert submit()["created"]
    assert len(served[1].objects) == 1


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"image": ""}, "no image"),
        ({"workdir": "here"}, "a directory inside the image"),
        ({"output": "out.txt"}, "spec.output"),
        ({"after": ["gone"]}, "there is no job 'gone'"),
        ({"gpusPerNode": 3, "tasksPerNode": 2}, "cannot be divided"),
    ],
)
def test_what_cannot_run_in_containers_is_refused_before_it_is_sent(served, submit, spec, text):
    with pytest.raises(SpecError, match=re.escape(text)):
        submit(**spec)
    assert all(method == "GET" for method, _ in served[1].requests)


def test_dependencies_are_written_by_name(served, submit):
    served[1].put(mljob("first", spec={"array": "0-2"}))
    name = submit(after=["first.1:any"])["jobs"][0]["name"]
    (after,) = served[1].objects[f"{JOBS}/{name}"]["spec"]["after"]
    assert after == {"job": "first[1]", "condition": "any"}


def test_one_element_is_found_by_each_of_its_names(served):
    served[1].put(mljob("grid", spec={"array": "0-2"}))
    for text in ("grid[1]", "grid.1", "team/grid.1"):
        assert served[0].call("show", job=text)["array_index"] == 1
    assert served[0].call("show", job="grid")["array"]["size"] == 3
    for text in ("grid[7]", "gone", "NO", "team/gone"):
        with pytest.raises(NotFoundError, match="there is no job"):
            served[0].call("show", job=text)


def test_cancelling_annotates_open_jobs_and_leaves_ended_ones(served):
    served[1].put(mljob("open"))
    served[1].put(mljob("over", status={"state": "SUCCEEDED", "attempt": 1}))
    found = served[0].call("cancel", jobs=["open", "over"], grace_s=5)
    assert [job["name"] for job in found["jobs"]] == ["open", "over"]
    annotations = {
        path.rpartition("/")[2]: one["metadata"]["annotations"]
        for path, one in served[1].objects.items()
    }
    assert annotations == {"open": {"mlsched.io/cancel": "5"}, "over": {}}


def test_of_an_array_only_the_elements_in_the_states_that_were_named_are_cancelled(served):
    mixed = {"state": "RUNNING", "elements": [{"index": 0, "state": "RUNNING", "attempt": 1}]}
    served[1].put(mljob("mixed", spec={"array": "0-2"}, status=mixed))
    served[0].call("cancel", jobs=["mixed"], states=["PENDING"])
    assert _annotations(served, "mixed") == {ELEMENTS: "2,1"}
    served[0].call("cancel", jobs=["mixed"], states=["FAILED"])
    assert _annotations(served, "mixed") == {ELEMENTS: "2,1"}
    served[0].call("cancel", jobs=["mixed"])
    assert _annotations(served, "mixed") == {ELEMENTS: "2,1", "mlsched.io/cancel": ""}


def test_one_element_is_cancelled_besides_those_that_were_before(served):
    served[1].put(mljob("grid", spec={"array": "0-4"}, annotations={ELEMENTS: "0-1"}))
    (shown,) = served[0].call("cancel", jobs=["grid[3]"], grace_s=9)["jobs"]
    assert shown["name"] == "grid[3]"
    assert _annotations(served, "grid") == {ELEMENTS: "3:9,0-1"}
    served[0].call("cancel", jobs=["grid[3]", "grid[4]"], grace_s=0)
    assert _annotations(served, "grid") == {ELEMENTS: "4:0,3:0,0-1"}


def test_a_wish_that_somebody_else_wrote_at_the_same_moment_is_kept(served):
    def write(metadata):
        metadata |= {"resourceVersion": "2", "annotations": {ELEMENTS: "0"}}

    served[1].put(mljob("grid", spec={"array": "0-4"}))
    served[1].writers.append(write)
    served[0].call("cancel", jobs=["grid[3]"])
    assert _annotations(served, "grid") == {ELEMENTS: "3,0"}


def test_an_element_that_has_ended_is_left_as_it_is(served):
    over = {"state": "PENDING", "elements": [{"index": 0, "state": "SUCCEEDED", "attempt": 1}]}
    served[1].put(mljob("grid", spec={"array": "0-1"}, status=over))
    (shown,) = served[0].call("cancel", jobs=["grid[0]"])["jobs"]
    assert shown["state"] == "SUCCEEDED"
    assert all(method != "PATCH" for method, _ in served[1].requests)


def _annotations(served, name):
    return served[1].objects[f"{JOBS}/{name}"]["metadata"]["annotations"]


def test_whoever_cancels_is_told_that_nobody_carries_it_out(served):
    served[1].put(mljob("open"))
    (warning,) = served[0].call("cancel", jobs=["open"])["warnings"]
    assert "no mlsched controller" in warning


def test_retry_takes_the_spec_with_changes_and_a_new_name(served):
    served[1].put(mljob("train-bcdfg", spec={"command": ["python", "train.py"], "nodes": 2}))
    (job,) = served[0].call("retry", job="train-bcdfg", set={"nodes": 1})["jobs"]
    assert re.fullmatch(r"train-\w{5}", job["name"])
    assert "nodes" not in served[1].objects[f"{JOBS}/{job['name']}"]["spec"]


def test_why_is_worked_out_by_the_placement_code(served):
    served[1].put(mljob("big", spec={"cpusPerTask": 8}))
    served[1].objects[f"{NODES}/a"] = node("a")
    found = served[0].call("why", job="big")
    assert found["reason"]["code"] == "NeverFits"
    assert found["job"]["reason"] == found["reason"]
    assert found["unblocks"] == ["--cpus 4"]
    assert any("no mlsched controller" in line for line in found["details"])


def test_why_says_what_starts_in_a_moment_and_what_waits_behind_it(served):
    served[1].put(mljob("one", 1, spec={"cpusPerTask": 4}))
    served[1].put(mljob("two", 2, spec={"cpusPerTask": 4}))
    served[1].objects[f"{NODES}/a"] = node("a")
    assert served[0].call("why", job="one")["reason"]["code"] == "Starting"
    assert served[0].call("why", job="two")["reason"]["code"] == "WaitingForCapacity"


def test_a_report_does_not_tell_cpu_time_that_nobody_counted(served):
    served[1].put(mljob("one", status={"state": "SUCCEEDED", "attempt": 1}))
    found = served[0].call("report")
    assert found["jobs"][0]["cpu_s"] is None
    assert found["totals"]["cpu_s"] is None


def test_an_array_that_is_too_large_for_one_object_is_refused(served):
    spec = {"command": ["true"], "image": "i:1", "array": "0-1500"}
    with pytest.raises(SpecError, match="at most 1500 pods, found 1501 elements"):
        served[0].call("submit", document=document(**spec))
    served[1].put(mljob("big", spec={"array": "0-1500"}))
    (row,) = served[0].call("list", all=True)["jobs"]
    assert (row["state"], row["reason"]["code"]) == ("FAILED", "Misconfigured")


def test_why_tells_what_keeps_a_pod_from_starting(served):
    status = {"state": "STARTING", "attempt": 1}
    status |= {"placements": [{"node": "a"}], "attempts": [{"number": 1, "nodes": ["a"]}]}
    served[1].put(mljob("one", status=status))
    state = {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}
    pod = {
        "metadata": {"name": "one-1-0", "namespace": "team"},
        "spec": {"nodeName": "a", "containers": [{"name": "rank-0"}]},
        "status": {"containerStatuses": [{"name": "rank-0", "state": state}]},
    }
    served[1].objects["/api/v1/namespaces/team/pods/one-1-0"] = pod
    found = served[0].call("why", job="one")
    assert found["details"][0] == "one-1-0 on a: ErrImagePull: no such host"
    served[1].forbidden = {"/api/v1/namespaces/team/pods"}
    assert "may not list its pods" in served[0].call("why", job="one")["details"][0]


def test_why_without_rights_says_so(served):
    served[1].put(mljob("one"))
    served[1].lease()
    served[1].forbidden = {NODES, "/apis/mlsched.io/v1alpha1/mljobs"}
    found = served[0].call("why", job="one")
    assert "cannot be worked out" in found["reason"]["message"]
    assert "you may not list nodes" in found["details"]


def document(**spec):
    return {
        "apiVersion": "mlsched.io/v1alpha1",
        "kind": "MLJob",
        "spec": {"command": ["true"], "image": "i:1", **spec},
    }


@pytest.mark.parametrize(
    "kind", ["resourceslices", "resourceclaims", "gpunodes", "podgroups", "mlqueues"]
)
def test_why_names_each_list_that_it_may_not_see(served, kind):
    """Without the slices of a DRA driver its GPUs are not there, and a job seems never to fit."""
    groups = {
        "mlqueues": "mlsched.io/v1alpha1",
        "gpunodes": "mlsched.io/v1alpha1",
        "podgroups": "scheduling.k8s.io/v1beta1",
    }
    served[1].put(mljob("one", spec={"gpusPerNode": 1}))
    served[1].objects[f"{NODES}/a"] = node("a")
    served[1].forbidden = {f"/apis/{groups.get(kind, 'resource.k8s.io/v1')}/{kind}"}
    assert f"you may not list {kind}" in served[0].call("why", job="one")["details"]


def test_a_preview_asks_the_api_server_and_stores_nothing(served):
    served[1].objects[f"{NODES}/a"] = node("a")
    served[1].lease()
    before = dict(served[1].objects)
    found = served[0].call("preview", document=document(cpusPerTask=2))
    assert found["starts_now"] is True
    assert [group["node"] for group in found["placement"]] == ["a"]
    assert ("POST", JOBS) in served[1].requests
    assert served[1].objects == before


def test_a_preview_says_what_it_cannot_know(served):
    served[1].objects[f"{NODES}/a"] = node("a")
    served[1].forbidden = {NODES, LEASES}
    found = served[0].call("preview", document=document())
    assert found["starts_now"] is None
    assert "cannot be told" in found["reason"]["message"]
    assert any("may not read the controller's lease" in note for note in found["notes"])


def test_without_a_controller_nothing_starts_and_whoever_submits_is_told(served, submit):
    served[1].objects[f"{NODES}/a"] = node("a")
    found = served[0].call("preview", document=document())
    assert found["starts_now"] is False
    assert "no mlsched controller" in found["reason"]["message"]
    (warning,) = submit()["warnings"]
    assert "no mlsched controller holds its lease: nothing is placed" in warning
    assert served[0].call("why", job=submit()["jobs"][0]["name"])["reason"]["message"] == (
        "fits now and starts as soon as there is a controller"
    )


@pytest.mark.parametrize("may_read", [True, False])
def test_with_a_controller_or_without_rights_nothing_is_warned_of(served, submit, may_read):
    served[1].lease()
    served[1].forbidden = set() if may_read else {LEASES}
    assert submit()["warnings"] == []


def test_a_job_that_was_made_is_told_of_although_the_lease_cannot_be_read(served, submit):
    served[1].broken = {LEASES}
    found = submit()
    assert (found["created"], found["warnings"]) == (True, [])


def test_a_thousand_submissions_do_not_look_at_the_lease_a_thousand_times(served, submit):
    for _ in range(20):
        submit()
    assert served[1].requests.count(("GET", LEASES)) == 1


def settings(**told):
    return {SETTINGS_ANNOTATION: json.dumps(told)}


def test_the_image_of_the_controller_is_for_jobs_that_name_none(served, submit):
    served[1].lease(annotations=settings(image="jobs:1"))
    name = submit(image="")["jobs"][0]["name"]
    assert "image" not in served[1].objects[f"{JOBS}/{name}"]["spec"]


def test_rules_of_the_controller_decide_on_layers(served):
    gpu = {"layerRules": [{"label": "pool", "value": "a", "layer": "gpu"}]}
    one = node("a")
    one["metadata"]["labels"] = {"pool": "a"}
    served[1].objects[f"{NODES}/a"] = one
    served[1].put(mljob("prepare"))
    served[1].lease()
    assert served[0].call("why", job="prepare")["reason"]["code"] == "Starting"
    served[1].lease(annotations=settings(**gpu))
    found = served[0].call("why", job="prepare")
    assert found["reason"]["code"] == "NeverFits"
    assert "layer" in found["reason"]["message"]
    assert not any("not said" in line for line in found["details"])


def test_settings_that_are_not_known_are_told_of(served):
    served[1].objects[f"{NODES}/a"] = node("a")
    served[1].put(mljob("one"))
    served[1].lease()
    told = served[0].call("why", job="one")["details"]
    assert any("of another release, does not tell its settings" in line for line in told)
    served[1].forbidden = {LEASES}
    told = served[0].call("why", job="one")["details"]
    assert any("you may not read the controller's lease" in line for line in told)


def test_rows_are_as_on_one_machine(served):
    ended = {"state": "FAILED", "attempt": 1, "exitCode": 3, "endedAt": "2026-11-26T14:00:00.000Z"}
    running = {"state": "RUNNING", "attempt": 1}
    served[1].put(mljob("over", 1, status=ended))
    served[1].put(mljob("waits", 2))
    served[1].put(mljob("runs", 3, status=running))

    def names(**query):
        return [job["name"] for job in served[0].call("list", **query)["jobs"]]

    assert names() == ["runs", "waits"]
    assert names(all=True) == ["runs", "waits", "over"]
    assert names(state=["FAILED"]) == ["over"]
    assert names(all=True, limit=1) == ["runs"]
    assert served[0].call("list", all=True, limit=1)["total"] == 3
    with pytest.raises(SpecError, match="limit"):
        served[0].call("list", limit=0)


def test_a_spec_that_nobody_can_read_is_a_job_that_failed(served):
    served[1].put(mljob("odd", spec={"surprise": 1}))
    (job,) = served[0].call("list", all=True)["jobs"]
    assert (job["state"], job["reason"]["code"]) == ("FAILED", "Misconfigured")


def test_schedules_are_not_in_clusters(served):
    with pytest.raises(ConfigError, match="schedules: not in a cluster"):
        served[0].call("schedule_list")


def test_missing_rights_name_who_may_not_do_what(served):
    served[1].forbidden = {JOBS}
    with pytest.raises(PermanentError, match="user alice may not list x"):
        served[0].call("list")


def test_views_have_the_keys_of_jobs_of_one_machine(served, submit):
    from mlsched.model.jobs import Job
    from mlsched.model.specs import JobSpec
    from mlsched.server.views import job_view

    local = job_view(Job("id", "n", 1, JobSpec(command=("x",)), 0), None)
    (job,) = submit()["jobs"]
    assert job.keys() == local.keys()
    assert json.dumps(job)


@pytest.mark.parametrize("op", ["list", "show", "why", "gpus", "ping"])
def test_an_answer_of_somebody_else_is_an_error_of_the_context(served, op):
    """A login page, say, of whoever stands between."""
    client, server = served
    server.get = lambda path, params=None: b"<html>log in</html>"
    with pytest.raises(UnreachableError, match="context prod answered what cannot be read"):
        client.call(op, job="train")


def test_a_key_that_is_no_text_is_refused(submit):
    with pytest.raises(SpecError, match="is no UTF-8 text"):
        submit(key="a\udcff")


DONE = {"state": "SUCCEEDED", "attempt": 1, "exitCode": 0}


def ended(namespace, name, **status):
    body = mljob(name, status=DONE | status)
    body["metadata"]["namespace"] = namespace
    return body


def test_jobs_of_several_namespaces_need_rights_in_these_alone(served):
    client, server = served
    for namespace in ("team", "other"):
        path = f"/apis/mlsched.io/v1alpha1/namespaces/{namespace}/mljobs/x"
        server.objects[path] = ended(namespace, "x")
    server.forbidden = {"/apis/mlsched.io/v1alpha1/mljobs"}
    with JobWatch(client, ["team/x", "other/x"]) as watch:
        assert watch.wait(20)
        assert set(watch.jobs) == {"team/x", "other/x"}


def test_of_several_namespaces_one_without_rights_is_an_error(served):
    client, server = served
    server.put(ended("team", "x"))
    server.forbidden = {"/apis/mlsched.io/v1alpha1/namespaces/other/mljobs"}
    with JobWatch(client, ["x", "other/x"]) as watch, pytest.raises(PermanentError):
        watch.wait(20)


def test_a_view_of_the_cluster_says_what_it_could_not_see(served):
    client, server = served
    server.forbidden = {NODES}
    assert client.call("node")["notes"] == ["you may not list nodes"]
