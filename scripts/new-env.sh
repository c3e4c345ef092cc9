#!/bin/sh
# Makes .env from .env.example with a fresh random secret wherever one is needed.
# Never touches a .env that is there.
set -eu
cd "$(dirname "$0")/.."
target="${1:-.env}"

if [ -e "$target" ]; then
  echo "$target is there already; nothing was changed" >&2
  exit 1
fi

umask 077
secret() {
  # 40 characters of A-Z a-z 0-9: Grafana would interpret a $, InfluxDB a colon
  LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | head -c 40
}

while IFS= read -r line; do
  case "$line" in
    COLLECTOR_ADMIN_KEY= | BRIDGE_WEBHOOK_SECRET= | BRIDGE_ACTION_TOKEN= | INFLUXDB_ADMIN_TOKEN= | \
      INFLUXDB_PASSWORD= | GRAFANA_ADMIN_PASSWORD= | POSTGRES_PASSWORD=)
      echo "$line$(secret)"
      ;;
    *) echo "$line" ;;
  esac
done <.env.example >"$target.new"
mv "$target.new" "$target"
echo "$target has fresh secrets. Now set MARZBAN_URL, MARZBAN_USERNAME and MARZBAN_PASSWORD in it."
echo "Grafana's sign-in is admin with the GRAFANA_ADMIN_PASSWORD in there."
