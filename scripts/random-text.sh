# shellcheck shell=sh
# Read by new-env.sh and install.sh, which make secrets.

random_text() {
  # 40 characters of A-Z a-z 0-9, which mean nothing to any of the programs or to an address
  LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom 2>/dev/null | head -c 40
}
