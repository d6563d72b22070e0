#!/bin/sh
# Writes PgBouncer's two files to /tmp and becomes it. The password is read from a file and may have any characters.
set -eu
folder=${POOLER_DIR:-/tmp}
secret=${PASSWORD_FILE:-/run/secrets/postgres_password}
umask 077

# In its list of users a quote is written twice, and nothing else has a meaning.
printf '"%s" "%s"\n' "$USER_NAME" "$(sed 's/"/""/g' "$secret")" >"$folder/users.txt"

cat >"$folder/pgbouncer.ini" <<EOF
[databases]
$DATABASE = host=$SERVER port=${SERVER_PORT:-5432} dbname=$DATABASE user=$USER_NAME

[pgbouncer]
listen_addr = ${LISTEN:-0.0.0.0}
listen_port = ${LISTEN_PORT:-5432}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $folder/users.txt
; A session of its own for each client: the product's own pools keep them, and its statements are prepared in them.
pool_mode = session
max_client_conn = 2000
default_pool_size = 150
; Clients set the server's time-outs when they connect.
ignore_startup_parameters = extra_float_digits,options
EOF
exec "${PGBOUNCER:-pgbouncer}" "$folder/pgbouncer.ini"
