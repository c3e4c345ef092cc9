#!/bin/sh
# Makes what docker compose needs: .env with the settings, and secrets/ with a file for each secret.
# What is there stays as it is; secrets that an older .env holds are moved into files.
# On a terminal it asks for the panel's address, and for the admin that signs in there.
#   --anyway   make secrets also where volumes of an earlier installation have others
set -eu
cd "$(dirname "$0")/.."
. scripts/random-text.sh
target=.env
secrets="${SECRETS_DIR:-secrets}"
project="${COMPOSE_PROJECT_NAME:-external-traffic}"
# The setting of each secret; its file has the same name in small letters
random="COLLECTOR_ADMIN_KEY BRIDGE_WEBHOOK_SECRET BRIDGE_ACTION_TOKEN INFLUXDB_ADMIN_TOKEN \
INFLUXDB_PASSWORD GRAFANA_ADMIN_PASSWORD POSTGRES_PASSWORD"
yours="MARZBAN_PASSWORD MARZBAN_API_KEY COLLECTOR_REPORTER_KEYS \
ALERTS_TELEGRAM_TOKEN ALERTS_SMTP_PASSWORD ALERTS_WEBHOOK_TOKEN"

umask 077

file_of() {
  echo "$secrets/$(echo "$1" | tr '[:upper:]' '[:lower:]')"
}

# What .env says of a name, without the quotes around it
value_of() {
  [ -e "$target" ] || return 0
  sed -n "s/^$1=//p" "$target" | tail -n 1 | sed \
    -e "s/^'\(.*\)'[[:space:]]*\$/\1/;t" \
    -e 's/^"\(.*\)"[[:space:]]*$/\1/;t' \
    -e 's/[[:space:]][[:space:]]*#.*$//' -e 's/[[:space:]]*$//'
}

# Readable by all within a folder that only its owner can enter: the programs have other users
write_secret() {
  printf '%s\n' "$2" >"$1.new"
  chmod 644 "$1.new"
  mv "$1.new" "$1"
}

has_older_volumes() {
  command -v docker >/dev/null 2>&1 &&
    docker volume ls --quiet 2>/dev/null | grep -q -x "${project}_influxdb"
}

secret_of() {
  cat "$(file_of "$1")"
}

ask() { # question, name of the setting
  [ -t 0 ] && [ -z "$(value_of "$2")" ] || return 0
  printf '%s' "$1" >&2
  IFS= read -r answer || return 0
  case "$answer" in
    '') return 0 ;;
    *"'"* | *\\*)
      echo "Write it into $target yourself: it has a quote or a backslash in it." >&2
      return 0
      ;;
  esac
  quoted=$(printf '%s' "$answer" | sed 's/[&|]/\\&/g')
  sed "s|^$2=.*|$2='$quoted'|" "$target" >"$target.new"
  mv "$target.new" "$target"
}

ask_password() {
  [ -t 0 ] && [ -z "$(secret_of MARZBAN_PASSWORD)$(secret_of MARZBAN_API_KEY)" ] || return 0
  printf 'Its password (it is not shown; empty to set it later): ' >&2
  stty -echo
  IFS= read -r answer || answer=
  stty echo
  echo >&2
  write_secret "$(file_of MARZBAN_PASSWORD)" "$answer"
}

needed=
for name in $random $yours; do
  [ -e "$(file_of "$name")" ] || needed="$needed $name"
done
if [ -e "$target" ] && [ -z "$needed" ]; then
  echo "$target and $secrets are there already; nothing was changed" >&2
  exit 1
fi
if [ ! -e "$(file_of INFLUXDB_ADMIN_TOKEN)" ] && [ -z "$(value_of INFLUXDB_ADMIN_TOKEN)" ] &&
  [ "${1:-}" != --anyway ] && has_older_volumes; then
  echo "Volumes of an earlier installation are here (${project}_influxdb). InfluxDB, Grafana and" >&2
  echo "PostgreSQL in them go on with the secrets they were first started with, and would refuse" >&2
  echo "new ones. Put the old $secrets/ or .env back; or read docs/install.md, \"New secrets\"," >&2
  echo "and run this again with --anyway. Nothing was changed." >&2
  exit 1
fi

# Buttons of dashboards are for the one login that Grafana has at first
[ -e "$target" ] || sed 's/^BRIDGE_ACTION_LOGINS=$/BRIDGE_ACTION_LOGINS=admin/' .env.example >"$target"
chmod 600 "$target"
mkdir -p "$secrets"
chmod 700 "$secrets"
for name in $needed; do
  value=$(value_of "$name")
  case " $random " in
    *" $name "*) [ -n "$value" ] || value=$(random_text) ;;
  esac
  write_secret "$(file_of "$name")" "$value"
done
if [ ! -e "$secrets/postgres_url" ]; then
  password=$(cat "$(file_of POSTGRES_PASSWORD)")
  write_secret "$secrets/postgres_url" "postgresql://traffic:$password@postgres:5432/traffic"
fi
# What is in files now is said in one place
for name in $random $yours; do
  sed "s/^$name=..*/$name=/" "$target" >"$target.new"
  mv "$target.new" "$target"
done

ask "The panel's address, such as https://panel.example.com:8000: " MARZBAN_URL
ask "The name of a sudo admin of the panel: " MARZBAN_USERNAME
ask_password

echo "$secrets/ has a file for each secret. Grafana's sign-in is admin with the password in"
echo "$(file_of GRAFANA_ADMIN_PASSWORD)."
if [ -z "$(value_of MARZBAN_URL)" ] ||
  [ -z "$(secret_of MARZBAN_PASSWORD)$(secret_of MARZBAN_API_KEY)" ]; then
  echo "Now set MARZBAN_URL and MARZBAN_USERNAME in $target, and write the admin's password into"
  echo "$(file_of MARZBAN_PASSWORD)."
fi
