#!/usr/bin/env bash
# Runs once, in an empty PostgreSQL: a role for each program, which owns its databases and sees no other's.
# psql quotes the passwords itself (:'name'), so that any character may be in them.
set -euo pipefail
psql --username postgres --dbname postgres --set ON_ERROR_STOP=1 <<'SQL'
\getenv raybd RAYBD_DB_PASSWORD
\getenv mlflow MLFLOW_DB_PASSWORD
CREATE ROLE raybd LOGIN PASSWORD :'raybd';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE raybd OWNER raybd;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE raybd, mlflow, mlflow_auth FROM PUBLIC;
SQL
