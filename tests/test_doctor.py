"""Each fault is planted, found, and its cure named."""

import json
import logging
import sqlite3
import sys
import textwrap
import time
from collections import namedtuple
from email.utils import formatdate

import mlflow
import pytest
from click.testing import CliRunner
from http_servers import QuietHandler, serving
from mlflow.entities import ViewType
from processes import free_port

from mlflow_hpo.cli import main
from mlflow_hpo.doctor import Finding, Level, gpu, installation, machine, stores
from mlflow_hpo.doctor.findings import without_secrets
from mlflow_hpo.tracking.batch import Batch
from mlflow_hpo.tracking.connect import store_name
from mlflow_hpo.tracking.spool import Spool


def doctor(*flags):
    result = CliRunner().invoke(main, ["doctor", "--json", *flags])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    told = json.loads(result.stdout)
    assert told["healthy"] == (result.exit_code == 0)
    assert result.exit_code in (0, 1)
    assert result.stderr == ""
    return told["findings"]


def bad(findings):
    return [found for found in findings if found["level"] != "OK"]


def only_fault(findings, subject):
    [found] = [found for found in findings if found["level"] == "FAULT"]
    assert found["subject"] == subject
    return found


def test_a_healthy_installation_has_no_fault_and_nothing_is_left_in_it(store, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    findings = doctor()
    assert bad(findings) == []
    subjects = {found["subject"] for found in findings}
    assert {"python", "packages", "plugin", "gpu", "tracking store", "artifact store", "spools"} <= subjects
    assert [each.name for each in store.search_experiments()] == ["Default"]
    assert store.search_runs(["0"], run_view_type=ViewType.ACTIVE_ONLY) == []
    assert sorted(path for path in tmp_path.rglob("*") if "mlflow.db-" not in path.name) == before
    assert logging.root.manager.disable == 0

    lines = CliRunner().invoke(main, ["doctor"]).stdout.splitlines()
    assert len(lines) == len(findings)
    assert all(line.startswith("OK ") for line in lines)


def test_read_only_leaves_no_trace_at_all(store):
    store.create_experiment("test")
    assert bad(doctor("--read-only")) == []
    assert store.search_runs(["0", "1"], run_view_type=ViewType.ALL) == []


def test_a_store_that_does_not_exist_yet_is_fine_and_not_made(store, tmp_path, monkeypatch):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/new.db")
    assert bad(doctor()) == []
    assert not (tmp_path / "new.db").exists()


# --- tracking store


def test_unreachable_server(store):
    uri = f"http://me:hidden-4711@127.0.0.1:{free_port()}"
    mlflow.set_tracking_uri(uri)
    findings = doctor()
    found = only_fault(findings, "tracking store")
    assert "cannot reach http://127.0.0.1" in found["text"]
    assert found["cure"].startswith("start the server, or set MLFLOW_TRACKING_URI")
    assert "hidden-4711" not in json.dumps(findings)


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (401, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (404, "set MLFLOW_TRACKING_URI to the root of an MLflow server"),
    ],
)
def test_server_that_refuses(store, monkeypatch, status, cure):
    class Handler(QuietHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"you sent {self.headers['Authorization']} wrong-9c41aa".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-9c41aa")
    with serving(Handler) as uri:
        mlflow.set_tracking_uri(uri)
        findings = doctor()
    found = only_fault(findings, "tracking store")
    assert f"error code {status}" in found["text"]
    assert found["cure"].startswith(cure)
    assert "wrong-9c41aa" not in json.dumps(findings)


def change(path, *statements):
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def schema(path):
    connection = sqlite3.connect(path)
    version = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return version, tables


def test_database_of_an_older_mlflow_is_left_as_it_is(store, tmp_path):
    path = tmp_path / "mlflow.db"
    # without one of its tables MLflow itself would begin to migrate at once
    change(path, "UPDATE alembic_version SET version_num = '0a8213491aaa'", "DROP TABLE logged_model_tags")
    before = schema(path)
    found = only_fault(doctor(), "tracking store")
    assert "schema of an older MLflow (0a8213491aaa" in found["text"]
    assert f"mlflow db upgrade sqlite:///{path}" in found["cure"]
    assert schema(path) == before


def test_database_of_a_newer_mlflow(store, tmp_path):
    change(tmp_path / "mlflow.db", "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    found = only_fault(doctor(), "tracking store")
    assert "newer MLflow" in found["text"]
    assert found["cure"].startswith("pip install --upgrade mlflow")


def test_database_that_is_read_only(store, tmp_path):
    store.create_experiment("test")
    mlflow.set_tracking_uri(f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true")
    found = only_fault(doctor(), "tracking store")
    assert "cannot write to sqlite:///" in found["text"]
    assert "readonly database" in found["text"]
    assert found["cure"].startswith("make the database file and its folder writable")


def test_file_that_is_no_database(store, tmp_path):
    (tmp_path / "notes.db").write_text("these are notes, and no database at all\n" * 100)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/notes.db")
    assert only_fault(doctor(), "tracking store")["cure"].startswith("restore the file from a backup")


def test_database_in_a_folder_that_does_not_exist(store, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    found = only_fault(doctor(), "tracking store")
    assert found["cure"].startswith("make a folder that this user may write to")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("allowed", "level"), [("", "FAULT"), ("true", "WARNING")])
def test_store_of_files(store, tmp_path, monkeypatch, allowed, level):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", allowed)
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    [found] = bad(doctor())
    assert (found["level"], found["subject"]) == (level, "settings")
    assert f"mlflow migrate-filestore --source {tmp_path}/runs" in found["cure"]


# --- artifact store (S3: tests/servers)


def test_artifact_folder_that_cannot_be_written(store, tmp_path):
    (tmp_path / "file").touch()
    store.create_experiment("test", artifact_location=f"{tmp_path}/file/artifacts")
    found = only_fault(doctor(), "artifact store")
    assert f"{tmp_path}/file/artifacts" in found["text"]
    assert found["cure"].startswith("make the folder writable")


# --- settings


def test_a_run_id_that_was_left(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef")
    found = only_fault(doctor(), "settings")
    assert "MLFLOW_RUN_ID=0123456789abcdef" in found["text"]
    assert found["cure"].startswith("unset MLFLOW_RUN_ID")


@pytest.mark.parametrize("exists", [True, False])
def test_experiment_settings_that_disagree(store, monkeypatch, exists):
    if exists:
        store.create_experiment("test")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    found = only_fault(doctor(), "experiment")
    assert "disagree" in found["text"]
    assert found["cure"] == "unset MLFLOW_EXPERIMENT_ID, or unset MLFLOW_EXPERIMENT_NAME"


def test_experiments_that_agree(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", store.create_experiment("test"))
    assert bad(doctor()) == []


def test_experiment_that_is_deleted(store):
    number = store.create_experiment("test")
    store.delete_experiment(number)
    cure = only_fault(doctor(), "experiment")["cure"]
    assert cure.startswith(f"mlflow experiments restore --experiment-id {number}")
    assert bad(doctor("--experiment", "another")) == []


def test_experiment_id_that_does_not_exist(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    found = only_fault(doctor(), "experiment")
    assert "MLFLOW_EXPERIMENT_ID=4711: does not exist" in found["text"]
    assert "unset MLFLOW_EXPERIMENT_ID" in found["cure"]


def test_experiment_id_that_is_none(store, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "abc")
    assert "MLFLOW_EXPERIMENT_ID=abc: does not exist" in only_fault(doctor(), "experiment")["text"]


def test_uri_that_is_none(store):
    mlflow.set_tracking_uri("postgresql://user:p[ss@host/db")
    found = only_fault(doctor(), "settings")
    assert found["text"] == "MLFLOW_TRACKING_URI is no URI"
    assert "%5B" in found["cure"]
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 1
    assert result.output.startswith("error: MLFLOW_TRACKING_URI: is no URI")
    assert "p[ss" not in result.output


# --- what is installed


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with one module and one entry point."""

    def install(name, group, point, code):
        folder = tmp_path / "site"
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{point} = {name}:Made\n")
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install


@pytest.mark.parametrize("room", ["searchers", "schedulers", "launchers"])
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import a_package_that_is_missing", "No module named 'a_package_that_is_missing'"),
        ("import sys; sys.exit('not on this machine')", "SystemExit: not on this machine"),
        ("Other = 1", "has no attribute 'Made'"),
        ("class Made: pass", "must be a class derived from"),
    ],
)
def test_broken_entry_point_of_another_package(store, install, room, code, why):
    install("broken_plugin", f"mlflow_hpo.{room}", "theirs", code)
    [found] = bad([vars_of(each) for each in installation.check_others()])
    assert (found["level"], found["subject"]) == ("FAULT", "entry points")
    assert f"{room.removesuffix('s')} 'theirs' of broken_plugin" in found["text"]
    assert why in found["text"]
    assert found["cure"] == "pip install --upgrade broken_plugin, or pip uninstall broken_plugin"


def vars_of(finding):
    return {
        "level": finding.level.value,
        "subject": finding.subject,
        "text": finding.text,
        "cure": finding.cure,
    }


def test_broken_entry_point_is_told_by_the_command(store, install):
    install("broken_plugin", "mlflow_hpo.searchers", "theirs", "raise SystemError('torn')")
    assert "SystemError: torn" in only_fault(doctor(), "entry points")["text"]


GOOD = "from mlflow_hpo.searchers.random import RandomSearcher\nclass Made(RandomSearcher): pass\n"


def test_a_plugin_that_prints_does_not_break_the_json(store, install):
    install("chatty_plugin", "mlflow_hpo.searchers", "theirs", f"print('hello')\n{GOOD}")
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert json.loads(result.stdout)["healthy"]
    assert result.stderr == "hello\n"


def test_entry_points_that_load(store, install):
    install("good_plugin", "mlflow_hpo.searchers", "theirs", GOOD)
    [found] = installation.check_others()
    assert found == Finding(Level.OK, "entry points", "searcher 'theirs' of good_plugin")


def test_entry_point_that_a_builtin_name_hides(store, install):
    install("hidden_plugin", "mlflow_hpo.searchers", "tpe", GOOD)
    [found] = installation.check_others()
    assert found.level is Level.WARNING
    assert "never used" in found.text
    assert "TpeSearcher has the same name" in found.text


def test_backend_of_another_package(store, install):
    install("other_backend", "mlflow.project_backend", "hpo", "class Made: pass")
    [found] = installation.check_backend()
    assert found.level is Level.FAULT
    assert found.cure.startswith("pip uninstall other_backend")


def test_backend_that_mlflow_does_not_find(monkeypatch):
    monkeypatch.setattr(installation, "entry_points", lambda **_: [])
    [found] = installation.check_backend()
    assert found.level is Level.FAULT
    assert "pip install --force-reinstall" in found.cure


@pytest.mark.parametrize(
    ("package", "version", "level", "cure"),
    [
        ("torch", "2.1.0", Level.FAULT, "pip install 'torch>=2.6'"),
        ("mlflow", "2.9.0", Level.FAULT, "pip install 'mlflow<4,>=3.17'"),
        ("hyperopt", None, Level.FAULT, "pip install 'hyperopt>=0.3.0'"),
        ("optuna", "3.0", Level.WARNING, "pip install 'optuna>=5.0'"),
    ],
)
def test_package_out_of_range(monkeypatch, package, version, level, cure):
    true = installation.importlib.metadata.version

    def pretend(name):
        if name == package and version is None:
            raise installation.PackageNotFoundError(name)
        return version if name == package else true(name)

    monkeypatch.setattr(installation.importlib.metadata, "version", pretend)
    [found] = [each for each in installation.check_packages() if each.level is not Level.OK]
    assert (found.level, found.cure) == (level, cure)
    assert package in found.text


def test_old_python(monkeypatch):
    monkeypatch.setattr(installation.platform, "python_version", lambda: "3.9.2")
    [found] = installation.check_python()
    assert found.level is Level.FAULT
    assert found.cure == "make an environment with Python >=3.11"


# --- GPUs

H100 = gpu.Driver("580.95", "13.0", ("NVIDIA H100",))
CPU_BUILD = gpu.Torch("2.13.0+cpu", "", "", ())
CUDA_BUILD = gpu.Torch("2.13.0", "12.8", "", ())


@pytest.mark.parametrize(
    ("driver", "torch", "visible", "on_bus", "level", "cure"),
    [
        ("no library", CPU_BUILD, None, False, Level.OK, ""),
        ("no library", CUDA_BUILD, None, False, Level.OK, ""),
        ("no library", CUDA_BUILD, None, True, Level.WARNING, "install the NVIDIA driver"),
        (gpu.Driver("580.95", "13.0", ()), CUDA_BUILD, None, False, Level.OK, ""),
        (H100, CPU_BUILD, None, False, Level.WARNING, "install a CUDA build"),
        (H100, CUDA_BUILD, "", False, Level.WARNING, "unset CUDA_VISIBLE_DEVICES"),
        (H100, CUDA_BUILD, None, False, Level.WARNING, "install a driver for CUDA 12.8"),
        (H100, gpu.Torch("2.13.0", "12.8", "", ("NVIDIA H100",)), None, False, Level.OK, ""),
        ("no library", gpu.Torch("2.13.0", "", "6.2", ("MI300X",)), None, False, Level.OK, ""),
    ],
)
def test_gpu(driver, torch, visible, on_bus, level, cure):
    found = gpu.judge(driver, torch, visible, on_bus=on_bus)
    assert found.level is level
    assert found.cure.startswith(cure)


def test_gpus_are_seen_on_the_bus(tmp_path):
    for name, vendor, kind in [("0", "0x8086", "0x030000"), ("1", "0x10de", "0x040300")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert not gpu.nvidia_on_bus(tmp_path)  # a display of another make, and the sound of one
    (tmp_path / "1" / "class").write_text("0x030200\n")
    assert gpu.nvidia_on_bus(tmp_path)
    assert not gpu.nvidia_on_bus(tmp_path / "nowhere")


def test_torch_that_cannot_be_imported(monkeypatch):
    def broken():
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(gpu, "ask_torch", broken)
    [found] = gpu.check_gpu()
    assert found.level is Level.FAULT
    assert "libcudart.so.12" in found.text


def test_a_daemon_of_mps_is_seen_where_there_is_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(gpu, "ask_driver", lambda: H100)
    monkeypatch.setattr(gpu, "ask_torch", lambda: gpu.Torch("2.13.0", "12.8", "", H100.names))
    assert len(list(gpu.check_gpu())) == 1
    (tmp_path / "control").touch()
    _, found = gpu.check_gpu()
    assert (found.level, found.text.startswith("CUDA MPS runs")) == (Level.OK, True)


# --- the machine


def test_spool_of_a_driver_that_is_gone(store, tmp_path):
    for where in (store.tracking_uri, "http://mlflow.example"):
        spool = Spool(tmp_path / "spool" / "study", store=store_name(where), study="0" * 32)
        batch = Batch()
        batch.tags["hpo.stop_reason"] = "told nobody"
        spool.append([("0" * 32, batch)])
        spool.close()
    found = bad(doctor())
    assert {each["subject"] for each in found} == {"spools"}
    assert {each["level"] for each in found} == {"WARNING"}
    assert {each["cure"] for each in found} == {
        f"mlflow-hpo sync (with MLFLOW_TRACKING_URI={store_name(store.tracking_uri)})",
        "mlflow-hpo sync (with MLFLOW_TRACKING_URI=http://mlflow.example)",
    }


def test_folders_that_cannot_be_used(store, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_HPO_SPOOL", str(tmp_path / "file" / "spool"))
    monkeypatch.setenv("MLFLOW_HPO_CACHE", str(tmp_path / "file"))
    found = {each["subject"]: each for each in bad(doctor())}
    assert found["spool folder"]["level"] == "FAULT"
    assert found["spool folder"]["cure"].endswith("or set MLFLOW_HPO_SPOOL to another")
    assert found["cache folder"]["level"] == "WARNING"
    assert "is not a folder" in found["cache folder"]["text"]


@pytest.mark.parametrize(("free", "level"), [(1 << 30, "WARNING"), (1 << 20, "FAULT")])
def test_disk_that_is_full(store, monkeypatch, free, level):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(free))
    found = bad(doctor())
    assert {each["level"] for each in found} == {level}
    assert "free some space" in found[0]["cure"]


# --- the server's clock and version


@pytest.mark.parametrize(("hours", "way"), [(1, "behind"), (-1, "ahead of"), (0, "")])
def test_clocks(store, hours, way):
    class Handler(QuietHandler):
        def do_GET(self):
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + hours * 3600, usegmt=True))
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"2.22.1")

    with serving(Handler) as uri:
        mlflow.set_tracking_uri(uri)
        clock, version = stores.check_server()
    assert clock.subject == "clock"
    assert (clock.level is Level.WARNING) == (hours != 0)
    assert way in clock.text
    assert ("NTP" in clock.cure) == (hours != 0)
    assert version.level is Level.WARNING
    assert "upgrade the server" in version.cure


# --- the doctor itself


def test_a_check_that_breaks_is_a_finding(store, monkeypatch):
    def explode():
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("mlflow_hpo.doctor.check_spools", explode)
    found = only_fault(doctor(), "doctor")
    assert found["text"] == "a check broke: ZeroDivisionError: division by zero"


def test_secrets_are_hidden(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "abcdef")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    finding = Finding(Level.FAULT, "x", "abcdef false", "see postgresql://me:p%40ss@db/x or p@ss")
    [shown] = without_secrets([finding], ["postgresql://me:p%40ss@db/x"])
    assert shown.text == "*** false"
    assert shown.cure == "see postgresql://db/x or ***"


def test_passwords_that_everybody_knows_do_not_tear_words():
    finding = Finding(Level.FAULT, "x", "postgresql://mlflow:mlflow@db/mlflow", "pip install mlflow-hpo")
    [shown] = without_secrets([finding], ["postgresql://mlflow:mlflow@db/mlflow"])
    assert (shown.text, shown.cure) == ("postgresql://db/mlflow", "pip install mlflow-hpo")


def test_a_finding_that_is_not_ok_has_a_cure():
    with pytest.raises(ValueError, match="cure"):
        Finding(Level.FAULT, "x", "y")
    with pytest.raises(ValueError, match="cure"):
        Finding(Level.OK, "x", "y", "z")
