#!/bin/sh
# Installs, upgrades or removes the programs as services, without Docker: docs/install.md.
set -eu

usage() {
  cat <<'END'
usage: sudo sh scripts/install.sh [OPTION…]

Installs collector and bridge, or with --agent the agent of a VPN server, as a systemd service of
its own user: asks what it has to know, starts, checks, and says what to do next. Run again, it
changes nothing that is as it should be.

  --agent              install the agent, on a server whose traffic is to count
  --upgrade            install this checkout's version over the one that is there
  --uninstall          remove service and programs; settings and data stay
  --purge              with --uninstall: remove settings and data too
  --without-release    with --uninstall: leave the panel's limits as the bridge published them
  --wheel FILE         install this wheel, not the checkout
  --extras NAMES       with these extras: postgres for the services; grpc,redis for the agent
  --python PROGRAM     use this Python, 3.11 or later (python3)
  --no-start           install, and start nothing; so it is where systemd does not run
  --help               show this

Collector and bridge. What is not given is asked for on a terminal, passwords unseen:
  --panel-url URL             the panel's address, without a path        (or MARZBAN_URL)
  --panel-username NAME       a sudo admin of it                         (or MARZBAN_USERNAME)
  --panel-password-file FILE  a file with that admin's password          (or MARZBAN_PASSWORD)
  --panel-api-key-file FILE   a file with an API key of PasarGuard, in place of both
                                                                         (or MARZBAN_API_KEY)
  --observe                   count and show, and change nothing in the panel

Agent:
  --collector-url URL  where the collector takes reports                 (or COLLECTOR_URL)
  --key-file FILE      a file with the reporter key of this server       (or REPORTER_KEY)
  --server NAME        this server's name in reports (its host name)
  --kind KIND          what to read: xray-vars, hysteria2, … (docs/agent.md)

In the environment passwords are not seen by other users of this machine, as options would be.
END
}

SOURCE=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=scripts/random-text.sh
. "$SOURCE/scripts/random-text.sh"
HOME_DIR=/opt/external-traffic
CURRENT=$HOME_DIR/current

# --- saying things ------------------------------------------------------------------------------
say() { printf '%s\n' "$*"; }
step() { printf '== %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
misuse() {
  printf 'error: %s; --help shows all options\n' "$*" >&2
  exit 2
}

# --- what is asked for --------------------------------------------------------------------------
role=bridge action=install extras='' wheel='' python=python3 starts=yes purges=no releases=yes
url=${MARZBAN_URL:-} username=${MARZBAN_USERNAME:-} password=${MARZBAN_PASSWORD:-}
api_key=${MARZBAN_API_KEY:-} enforcement='' collector_url=${COLLECTOR_URL:-}
key=${REPORTER_KEY:-} server='' kind=''
unset MARZBAN_URL MARZBAN_USERNAME MARZBAN_PASSWORD MARZBAN_API_KEY COLLECTOR_URL REPORTER_KEY

first_line_of() {
  [ -r "$1" ] || die "$1 cannot be read"
  head -n 1 "$1"
}

while [ $# -gt 0 ]; do
  option=$1
  case $option in
    --agent) role=agent ;;
    --upgrade) action=upgrade ;;
    --uninstall) action=uninstall ;;
    --purge) purges=yes ;;
    --without-release) releases=no ;;
    --no-start) starts=no ;;
    --observe) enforcement=observe ;;
    --help | -h)
      usage
      exit 0
      ;;
    --wheel | --extras | --python | --panel-url | --panel-username | --panel-password-file | \
      --panel-api-key-file | --collector-url | --key-file | --server | --kind)
      [ $# -ge 2 ] || misuse "$option needs a value"
      case $option in
        --wheel) wheel=$2 ;;
        --extras) extras=$2 ;;
        --python) python=$2 ;;
        --panel-url) url=$2 ;;
        --panel-username) username=$2 ;;
        --panel-password-file) password=$(first_line_of "$2") ;;
        --panel-api-key-file) api_key=$(first_line_of "$2") ;;
        --collector-url) collector_url=$2 ;;
        --key-file) key=$(first_line_of "$2") ;;
        --server) server=$2 ;;
        --kind) kind=$2 ;;
      esac
      shift
      ;;
    *) misuse "there is no option $option" ;;
  esac
  shift
done
[ "$purges" = no ] || [ "$action" = uninstall ] || misuse "--purge goes with --uninstall"
[ "$(id -u)" -eq 0 ] || die "this makes a user and a service: run it as root (sudo sh $0)"

if [ "$role" = agent ]; then
  service=traffic-agent other=external-traffic user=traffic-agent settings_dir=/etc/traffic-agent
  settings=$settings_dir/config.toml data=/var/lib/traffic-agent commands=traffic-agent
else
  service=external-traffic other=traffic-agent user=traffic settings_dir=/etc/external-traffic
  settings=$settings_dir/.env data=/var/lib/external-traffic
  commands='marzban-bridge traffic-collector'
fi
unit=/etc/systemd/system/$service.service
[ -d /run/systemd/system ] || starts=no

has_systemd() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

ask() { # ask QUESTION: print the line that is typed
  [ -t 0 ] || return 1
  printf '%s: ' "$1" >&2
  read -r answer
  printf '%s' "$answer"
}

ask_secret() {
  [ -t 0 ] || return 1
  trap 'stty echo; exit 130' INT TERM
  stty -echo
  answer=$(ask "$1") || true
  stty echo
  trap - INT TERM
  printf '\n' >&2
  printf '%s' "$answer"
}

# --- the programs -------------------------------------------------------------------------------
prepare_python() {
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    command -v apt-get >/dev/null || die "$python with its venv module is needed: install it first"
    step "installing Python and its venv module"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      python3 python3-venv ca-certificates >/dev/null
  fi
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version) is too old: 3.11 is needed; name a newer one with --python"
}

release_id() { # names what is to be installed: equal for equal contents
  {
    "$python" -c 'import sys; print(sys.version)'
    printf '%s\n' "$1"
    if [ -n "$wheel" ]; then
      cat "$wheel"
    else
      cd "$SOURCE"
      find collector marzban_bridge pyproject.toml packaging/pip -type f \
        ! -name '*.pyc' -exec sha256sum {} + | LC_ALL=C sort -k 2
    fi
  } | sha256sum | cut -c 1-12
}

install_programs() { # set has_other_programs=yes if these are not the ones that are there
  [ -z "$wheel" ] || [ -r "$wheel" ] || die "there is no wheel $wheel"
  had=$(cat "$CURRENT/extras" 2>/dev/null || true)
  extras=$(printf '%s,%s' "$had" "$extras" | tr -s ', ' '\n' | sort -u | paste -sd , | sed 's/^,//')
  release=$HOME_DIR/releases/$(release_id "$extras")
  if [ "$(readlink -f "$CURRENT")" = "$release" ]; then
    return
  fi
  if [ -e "$CURRENT" ] && [ "$action" = install ] && [ "$had" = "$extras" ]; then
    die "another version is installed: --upgrade replaces it (back up first: docs/upgrade.md)"
  fi
  step "installing the programs into $release"
  rm -rf "$release"
  umask 022
  "$python" -m venv "$release"
  what="${wheel:-$SOURCE}${extras:+[$extras]}"
  "$release/bin/pip" install --quiet --disable-pip-version-check \
    --constraint "$SOURCE/packaging/pip/constraints.txt" "$what" ||
    die "the packages could not be installed; is the package index reachable? Run this again"
  "$release/bin/marzban-bridge" --version >/dev/null
  printf '%s' "$extras" >"$release/extras"
  changed=yes has_other_programs=yes
}

check_settings() { # by the version that is to run, before the one that runs is replaced
  if [ "$role" = agent ]; then
    set -- traffic-agent check
  else
    set -- marzban-bridge up --check
  fi
  name=$1
  shift
  (cd "$data" && runuser -u "$user" -- "$release/bin/$name" "$@" >/dev/null) ||
    die "this version does not take the settings, see above; $service is as it was. Set $settings right, and run this again"
}

switch_programs() {
  ln -sfn "$release" "$CURRENT.new"
  mv -T "$CURRENT.new" "$CURRENT"
  rm -rf "$HOME_DIR/docs"
  cp -R "$SOURCE/docs" "$HOME_DIR/docs"
}

remove_other_programs() { # once nothing runs them any more
  find "$HOME_DIR/releases" -mindepth 1 -maxdepth 1 ! -path "$(readlink -f "$CURRENT")" \
    -exec rm -rf {} +
}

# --- user, folders, unit, commands ---------------------------------------------------------------
put() { # put MODE OWNER:GROUP TARGET: write standard input to a file, if it differs
  new=$(mktemp)
  cat >"$new"
  if ! cmp -s "$new" "$3"; then
    install -D -m "$1" -o "${2%:*}" -g "${2#*:}" "$new" "$3"
    changed=yes
    say "wrote $3"
  fi
  rm -f "$new"
}

make_user() {
  if ! id "$user" >/dev/null 2>&1; then
    step "making the user $user"
    useradd --system --user-group --no-create-home --home-dir "$data" \
      --shell /usr/sbin/nologin "$user"
  fi
  install -d -m 750 -o root -g "$user" "$settings_dir"
  install -d -m 700 -o "$user" -g "$user" "$data"
}

write_unit() {
  put 644 root:root "$unit" <"$SOURCE/packaging/systemd/$service.service"
}

write_commands() { # each runs as the service's user, where its settings are
  for name in $commands; do
    put 755 root:root "/usr/local/bin/$name" <<END
#!/bin/sh
# Written by scripts/install.sh
if [ "\$(id -un)" = $user ]; then
  cd $data && exec $CURRENT/bin/$name "\$@"
fi
[ "\$(id -u)" -eq 0 ] || { echo "error: it runs as the user $user: sudo $name …" >&2; exit 1; }
cd $data && exec runuser -u $user -- $CURRENT/bin/$name "\$@"
END
  done
}

# --- settings -------------------------------------------------------------------------------------
set_in_env() { # set_in_env NAME VALUE: set a variable in .env; the value is on no command line
  case $2 in
    *"'"*) die "the value of $1 has a quote ('): put it into $settings by hand" ;;
  esac
  set_name=$1 set_value=$2 awk '
    BEGIN { name = ENVIRON["set_name"]; value = ENVIRON["set_value"] }
    index($0, name "=") == 1 { if (value == "") print name "="; else print name "=\047" value "\047"; next }
    { print }' "$settings.new" >"$settings.newer"
  mv "$settings.newer" "$settings.new"
}

demand_panel() {
  [ -n "$url" ] || url=$(ask "The panel's address, such as https://panel.example.com:8000") || true
  if [ -z "$api_key" ]; then
    [ -n "$username" ] || username=$(ask "A sudo admin of the panel (PasarGuard: empty for an API key)") || true
    if [ -z "$username" ]; then
      api_key=$(ask_secret "An API key of PasarGuard") || true
    elif [ -z "$password" ]; then
      password=$(ask_secret "The password of $username") || true
    fi
  fi
  [ -n "$url" ] || misuse "the panel's address is not known: --panel-url"
  [ -n "$api_key" ] || [ -n "$username" ] || misuse "who signs in to the panel is not known: --panel-username, or --panel-api-key-file"
  [ -n "$api_key" ] || [ -n "$password" ] || misuse "the password of $username is not known: MARZBAN_PASSWORD, or --panel-password-file"
}

write_env() {
  step "making $settings with fresh secrets"
  install -m 600 "$SOURCE/.env.example" "$settings.new"
  set_in_env MARZBAN_URL "$url"
  set_in_env MARZBAN_USERNAME "$username"
  set_in_env MARZBAN_PASSWORD "$password"
  set_in_env MARZBAN_API_KEY "$api_key"
  for name in BRIDGE_WEBHOOK_SECRET BRIDGE_ACTION_TOKEN; do # `up` makes the other one itself
    set_in_env "$name" "$(random_text)"
  done
  set_in_env BRIDGE_ACTION_LOGINS admin # the one login that a new Grafana has
  [ -z "$enforcement" ] || set_in_env BRIDGE_ENFORCEMENT "$enforcement"
  chown "root:$user" "$settings.new"
  chmod 640 "$settings.new"
  mv "$settings.new" "$settings"
  changed=yes
}

demand_collector() {
  [ -n "$collector_url" ] || collector_url=$(ask "Where the collector takes reports, such as https://traffic.example.com") || true
  [ -n "$key" ] || key=$(ask_secret "This server's reporter key (traffic-collector reporters add NAME)") || true
  [ -n "$kind" ] || kind=$(ask "What to read: xray-vars, xray-command, hysteria2, singbox-ssm, wireguard, outline, command … (docs/agent.md)") || true
  [ -n "$collector_url" ] || misuse "the collector's address is not known: --collector-url"
  [ -n "$key" ] || misuse "the reporter key is not known: REPORTER_KEY, or --key-file"
  [ -n "$kind" ] || misuse "what is to be read is not known: --kind"
  [ -n "$server" ] || server=$(uname -n)
  case "$collector_url$server$kind$key" in
    *[\"\\]*) misuse 'a quote or backslash can be in no address, name, kind or key' ;;
  esac
}

write_agent_config() {
  step "making $settings"
  printf '%s\n' "$key" | put 640 "root:$user" "$settings_dir/key"
  changed=yes # `put` ran behind a pipe
  put 640 "root:$user" "$settings" <<END
# docs/agent.md, and the page of the source in docs/sources, say what else may be here
[collector]
url = "$collector_url"
key_file = "key"

[agent]
server = "$server"

[[source]]
name = "$kind"
kind = "$kind"
END
}

# --- starting and checking --------------------------------------------------------------------------
start() {
  [ "$starts" = yes ] && has_systemd || return 0
  systemctl daemon-reload
  systemctl --quiet enable "$service"
  if [ "$changed" = yes ] || ! systemctl --quiet is-active "$service"; then
    step "starting $service"
    systemctl restart "$service"
  fi
  if [ "$has_other_programs" = yes ]; then # agent and bridge of one machine have them in common
    systemctl try-restart "$other" 2>/dev/null || true
  fi
}

is_answering() {
  for _ in $(seq 60); do
    if "$CURRENT/bin/python" - "$1" 2>/dev/null <<'END'; then
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=2)
END
      return 0
    fi
    if has_restarted; then break; fi
    sleep 1
  done
  journalctl --unit "$service" --lines 10 --output cat --no-pager >&2 || true
  return 1
}

has_restarted() { # since `start`: its process ended, and systemd started it again
  [ "$(systemctl show --property NRestarts --value "$service")" != 0 ]
}

examine() {
  if [ "$starts" = no ]; then
    say "Nothing was started. As $user, in $data: marzban-bridge up; then marzban-bridge doctor."
    return
  fi
  port=$(sed -n "s/^BRIDGE_PORT='\{0,1\}\([0-9]*\)'\{0,1\}$/\1/p" "$settings" | tail -n 1)
  is_answering "http://127.0.0.1:${port:-8090}/healthz" ||
    die "it ended or did not answer within a minute, see above; more: journalctl -u $service -n 50"
  sleep 2 # for its first look at the panel
  step "marzban-bridge doctor"
  /usr/local/bin/marzban-bridge doctor ||
    die "it is installed, and something is wrong: see above; settings are in $settings, then systemctl restart $service"
}

next_step() {
  say ""
  say "Settings: $settings (then: systemctl restart $service). Data: $data/data; docs/backup.md."
  say "Next: in the panel's own settings, so that resets are noticed at once:"
  /usr/local/bin/marzban-bridge panels webhook default | sed 's/^/  /'
  say "and a key for each server that reports (docs/agent.md): traffic-collector reporters add NAME"
}

# --- the three things it does ----------------------------------------------------------------------
changed=no has_other_programs=no

install_or_upgrade() {
  if [ "$action" = upgrade ]; then
    if [ ! -e "$CURRENT" ] || [ ! -e "$unit" ]; then
      die "$service is not installed here: run it without --upgrade"
    fi
  elif [ ! -e "$settings" ]; then
    if [ "$role" = agent ]; then demand_collector; else demand_panel; fi
  fi
  prepare_python
  install_programs
  make_user
  if [ "$has_other_programs" = yes ] && [ -e "$settings" ]; then
    check_settings
  fi
  if [ "$role" = bridge ] && [ "$action" = upgrade ] && [ "$has_other_programs" = yes ]; then
    back_up
  fi
  [ "$has_other_programs" = no ] || switch_programs
  write_unit
  write_commands
  if [ "$role" = agent ]; then
    [ -e "$settings" ] || write_agent_config
    /usr/local/bin/traffic-agent check || die "set right what is said above, in $settings, and run this again"
    start
    say "$(/usr/local/bin/traffic-agent --version) is installed. Next: traffic-agent run --dry-run, traffic-agent status"
  else
    [ -e "$settings" ] || write_env
    ln -sfn "$settings" "$data/.env"
    [ -e "$data/data" ] || first_key
    start
    examine
    next_step
  fi
  remove_other_programs
  [ "$changed" = yes ] || say "Nothing had to be changed."
}

first_key() {
  step "making the first reporter key"
  /usr/local/bin/traffic-collector reporters add first
}

back_up() { # by the version that is there, before the other one brings its files forward
  [ -e "$data/data/ledger.sqlite3" ] || return 0
  folder=$data/backups/$(date -u +%Y-%m-%dT%H%M%SZ)
  step "copying store and ledger to $folder"
  install -d -m 700 -o "$user" -g "$user" "$data/backups" "$folder"
  {
    { [ ! -e "$data/data/bridge.sqlite3" ] || /usr/local/bin/marzban-bridge backup "$folder/bridge.sqlite3"; } &&
      /usr/local/bin/traffic-collector backup "$folder/ledger.sqlite3"
  } || die "no whole copy could be made, see above; $service is as it was. Set right what is said, and run this again"
}

uninstall() {
  if [ ! -e "$unit" ] && [ ! -e "$settings_dir" ] && [ ! -e "$data" ]; then
    say "$service is not installed here: nothing was removed"
    return
  fi
  if [ "$role" = bridge ] && [ "$releases" = yes ] && [ -e "$data/data/bridge.sqlite3" ] && [ -e "$CURRENT" ]; then
    step "giving every user its quota back: marzban-bridge release"
    /usr/local/bin/marzban-bridge release --change-the-panel ||
      die "the panel still has smaller limits, and nothing was removed: run this again when the panel answers, or with --without-release"
  fi
  if has_systemd && [ -e "$unit" ]; then
    systemctl --quiet disable --now "$service"
  fi
  rm -f "$unit"
  has_systemd && systemctl daemon-reload
  for name in $commands; do rm -f "/usr/local/bin/$name"; done
  if [ -e "/etc/systemd/system/$other.service" ]; then
    say "$HOME_DIR stays, for $other"
  else
    rm -rf "$HOME_DIR"
  fi
  if [ "$purges" = yes ]; then
    rm -rf "$settings_dir" "$data"
    if id "$user" >/dev/null 2>&1; then userdel "$user"; fi
    say "$service is removed, with settings and data."
  else
    say "$service is removed. $settings_dir, $data and the user $user stay; --uninstall --purge removes them."
  fi
}

case $action in
  uninstall) uninstall ;;
  *) install_or_upgrade ;;
esac
