"""A tracking server that asks for a password and speaks TLS only, by MLflow's own variables."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow.tracking import MlflowClient
from processes import answers, clean_environment, free_port, running
from server_processes import mlflow_command

pytestmark = pytest.mark.servers

PASSWORD = "basic-password-77ab31"
SIGNING = "flask-secret-5c1e20"
TESTS = Path(__file__).parents[1]
SEARCH = (
    f"import sys; sys.path.insert(0, {str(TESTS)!r}); import trainings; from mlflow_hpo import tune; "
    "tune(trainings.with_checkpoints, trainings.SPACE, metric='loss', mode='min', searcher='random', "
    "max_resource=3, trials=3, workers=2)"
)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate of 127.0.0.1 and its key; return both files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """The environment of a client of such a server, and the folder that the server writes to."""
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = make_certificate(folder)
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_username = tuner\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    port = free_port()
    command, environment = mlflow_command(
        f"sqlite:///{folder}/mlflow.db",
        {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": SIGNING},
        port,
        *("--workers", "1", "--app-name", "basic-auth"),
        *("--uvicorn-opts", f"--ssl-keyfile {key} --ssl-certfile {certificate}"),
    )
    uri = f"https://127.0.0.1:{port}"
    with running(
        command,
        ready=lambda: answers(f"{uri}/health", certificate),
        log=folder / "server.log",
        env=environment,
        cwd=folder,
    ):
        yield (
            clean_environment(
                MLFLOW_TRACKING_URI=uri,
                MLFLOW_TRACKING_SERVER_CERT_PATH=str(certificate),
                MLFLOW_TRACKING_USERNAME="tuner",
                MLFLOW_TRACKING_PASSWORD=PASSWORD,
            ),
            folder,
        )


def search(env, folder):
    return subprocess.run(
        [sys.executable, "-c", SEARCH], env=env, cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_a_study_gets_there_and_leaves_no_secret(secured, tmp_path):
    env, folder = secured
    done = search(env, tmp_path)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs(["0"])
    assert len(runs) == 4
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    written = [
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("auth.ini", "auth.db")
    ]
    assert any(path.suffix == ".ckpt" for path in written), "checkpoints go through the server"
    for content in (done.stdout.encode(), done.stderr.encode(), *(path.read_bytes() for path in written)):
        assert PASSWORD.encode() not in content
        assert SIGNING.encode() not in content


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "wrong-44aa19"}, "401"),
        ({"MLFLOW_TRACKING_SERVER_CERT_PATH": None}, "certificate verify failed"),
    ],
)
def test_who_may_not_come_in_is_told_so_in_one_line(secured, tmp_path, changed, problem):
    env, _ = secured
    env = {name: text for name, text in {**env, **changed}.items() if text is not None}
    done = search(env, tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mlflow_hpo.errors.StudyError: MLFLOW_TRACKING_URI: cannot use https://127.0.0.1:")
    assert problem in last
    assert "44aa19" not in done.stderr
