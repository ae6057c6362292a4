"""`deed submit` without a cluster; with one: tests/integration/test_cluster.py."""

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from conf.errors import UserError
from jobs.cli import main
from jobs.submit import finish, make_entrypoint
from pipeline.ops.cluster import check_outlives_job
from tests.integration.ray_nodes import free_port


def ended(status: JobStatus, code: int | None = None) -> JobDetails:
    return JobDetails(type=JobType.SUBMISSION, entrypoint="e", status=status, driver_exit_code=code, message="why")


@pytest.mark.parametrize(
    ("status", "driver_code", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 143),
    ],
)
def test_the_exit_code_is_the_jobs(status: JobStatus, driver_code: int | None, code: int) -> None:
    assert finish(ended(status, driver_code)) == code


def test_arguments_reach_the_cluster_as_they_were_typed() -> None:
    command = ["caption", "--set", "source.paths=[/a b/*.tar]", "--prompt", "what's this?"]
    line = make_entrypoint(command)
    assert line == "python -m jobs.cli caption --set 'source.paths=[/a b/*.tar]' --prompt 'what'\"'\"'s this?'"


@pytest.mark.parametrize("command", [[], ["no-such"], ["submit"], ["--config", "x"]])
def test_what_is_no_command_is_not_submitted(command: list[str]) -> None:
    with pytest.raises(UserError, match="after -- comes a deed command"):
        make_entrypoint(command)


def test_mistakes_are_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert main(["submit", "--", "caption", "x"]) == 2
    assert capsys.readouterr().err.startswith("deed submit: name the cluster")
    address = f"http://127.0.0.1:{free_port()}"
    assert main(["submit", "--address", address, "--", "caption", "x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"deed submit: cannot talk to a Ray dashboard at {address}")
    assert error.count("\n") == 1


def test_an_output_in_rays_own_folder_is_refused() -> None:
    with pytest.raises(UserError, match=r"output\.path is relative"):
        check_outlives_job("/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_1/runs/a")
    check_outlives_job("/mnt/runs/a")
    check_outlives_job("s3://bucket/runs/a")
