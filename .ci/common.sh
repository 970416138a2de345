# Sourced by run and nightly: a copy of the checkout in $work/tree, and a table of seconds a step.
# Nothing in the checkout is changed, a developer's .venv neither read nor touched.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"  # one test becomes another user
# Bytecode is written by the first import of a module: most of what is installed is never imported,
# and to compile all of it takes longer than the rest of the installation.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_COMPILE=0
unset PYTHONDONTWRITEBYTECODE
names=() starts=()

step() {
  names+=("$1")
  starts+=("$SECONDS")
  printf '\n== %s (%ss)\n' "$1" "$SECONDS"
}

finish() {
  local status=$? number
  starts+=("$SECONDS")
  for number in $(jobs -p); do kill -- "-$number" 2>/dev/null || true; done
  printf '\nseconds  step\n'
  for number in "${!names[@]}"; do
    printf '%7d  %s\n' "$((starts[number + 1] - starts[number]))" "${names[number]}"
  done
  printf '%7d  in all, exit status %d\n' "$SECONDS" "$status"
  rm -rf "$work"
}
trap finish EXIT

# Install what the tests need of Debian where one of its commands is missing.
debian() {
  local command
  for command in qemu-x86_64 zsh fish java chromium; do
    command -v $command >/dev/null && continue
    { apt-get update -qq && apt-get install -y -qq qemu-user zsh fish openjdk-17-jre-headless chromium; } >/dev/null
    break
  done
}

# Run a command beside the steps, its output in $work/NAME.log; end it with its children on exit.
beside() {
  set -m
  "${@:2}" >"$work/$1.log" 2>&1 &
  set +m
}

# The files as they are now, whether they are committed or not, in a repository of their own.
copy_tree() {
  mkdir "$work/tree"
  git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory "$work/tree"
  git -C "$work/tree" init --quiet
  git -C "$work/tree" add --all
  # Benchmarks look for their public data sets in ../shared/data.
  if [ -d ../shared ]; then ln -s "$(realpath ../shared)" "$work/shared"; fi
}

# The nth ```bash block of a page, so that what runs here is what a reader runs.
block() { awk -v want="$2" '/^```bash/ {n++; on = n == want; next} /^```/ {on = 0} on' "$1"; }
