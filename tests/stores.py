"""The servers that tests start, as tests see them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import boto3
import psycopg
from psycopg import sql

# distinctive, so that tests can look for them where they must not be
DATABASE_PASSWORD = "pg-password-4d1c8e"
S3_ACCESS_KEY = "AKIATESTKEY4D1C8E"
S3_SECRET_KEY = "s3-secret-key-9b27fa"
SECRETS = (DATABASE_PASSWORD, S3_ACCESS_KEY, S3_SECRET_KEY)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL cluster of the tests' own."""

    port: int

    def uri(self, database: str, password: str = DATABASE_PASSWORD) -> str:
        """Return the URI of a database, with user name and password."""
        return f"postgresql://mlflow:{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Create an empty database; return its URI."""
        name = f"mlflow_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.uri(name)


@dataclass(frozen=True)
class S3:
    """An S3 server that holds everything in memory."""

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @cached_property
    def client(self) -> Any:
        """A boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=S3_ACCESS_KEY,
            aws_secret_access_key=S3_SECRET_KEY,
            region_name="us-east-1",
        )

    def create_bucket(self) -> str:
        """Create an empty bucket; return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return everything in a bucket: key -> content."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


StartServer = Callable[..., str]
