# SPDX-License-Identifier: Apache-2.0
# Phases: commands with their output in a log and a sign of life. On a terminal, one line, rewritten every second, says what runs, for how
# long and how far it is; elsewhere there is a line when a phase begins and ends, and one for all of them every 10 s. Sourced, not run,
# after lib.sh.
# shellcheck shell=bash
phase_labels=() phase_logs=() phase_pids=() phase_starts=()

# Signals and failures end all running phases. Each phase is a process group of its own.
end_phases() {
  local pid
  for pid in "${phase_pids[@]}"; do
    kill -- "-$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  phase_labels=() phase_logs=() phase_pids=() phase_starts=()
}
trap end_phases EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

on_terminal() { [[ -t 1 && ${TERM:-dumb} != dumb ]]; }
clear_line() { if on_terminal; then printf '\r\033[K'; fi; }

# start_phase LABEL LOG COMMAND...: runs the command in the background, without standard input.
start_phase() {
  local label=$1 log=$2
  shift 2
  mkdir -p "$(dirname "$log")"
  on_terminal || say "$label"
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  set +m
  phase_labels+=("$label") phase_logs+=("$log") phase_pids+=($!) phase_starts+=("$SECONDS")
}

# finish_phases: waits for all started phases. When one fails: prints its log's end, ends the others and returns a non-zero status.
finish_phases() {
  local i shown=$SECONDS interval=10
  if on_terminal; then interval=1; fi
  while ((${#phase_pids[@]})); do
    for i in "${!phase_pids[@]}"; do
      if kill -0 "${phase_pids[i]}" 2>/dev/null; then continue; fi
      clear_line
      if ! wait "${phase_pids[i]}"; then
        show_failure "${phase_logs[i]}" "${phase_labels[i]}"
        unset "phase_pids[i]"
        end_phases
        return 1
      fi
      say "${phase_labels[i]}: done in $((SECONDS - phase_starts[i])) s"
      unset "phase_labels[i]" "phase_logs[i]" "phase_pids[i]" "phase_starts[i]"
    done
    if ((${#phase_pids[@]} && SECONDS - shown >= interval)); then
      show_phases
      shown=$SECONDS
    fi
    sleep 0.1
  done
}

# show_phases: one line for all running phases.
show_phases() {
  local i line="" width
  for i in "${!phase_pids[@]}"; do
    line+="${line:+ | }${phase_labels[i]}: $((SECONDS - phase_starts[i])) s$(phase_detail "${phase_logs[i]}")"
  done
  if on_terminal; then
    width=$(tput cols 2>/dev/null || echo 80)
    printf '\r\033[K%s' "${line:0:width-1}"
  else
    printf '   %s\n' "$line"
  fi
}

# phase_detail LOG: how far ninja, apt or pip is, by its output.
phase_detail() {
  awk '
    /^\[[0-9]+\/[0-9]+\] / {
      split(substr($1, 2), step, /[\/\]]/)
      name = $NF; sub(/CMakeFiles\/.*\.dir\//, "", name); sub(/\.o$/, "", name)
      what = sprintf("%d %%, %d of %d steps done, last %s", 100 * step[1] / step[2], step[1], step[2], name)
    }
    /^[0-9]+ upgraded, [0-9]+ newly installed/ { packages = $1 + $3 }
    /^Get:[0-9]+ / { what = "downloading " $5 }
    /^(Unpacking|Setting up) / && packages {
      name = $1 == "Setting" ? $3 : $2
      what = sprintf("%d %%, %s %s", 50 * ++handled / packages, $1 == "Setting" ? "setting up" : "unpacking", name)
    }
    /^Collecting / { what = "fetching " $2 }
    /^Installing collected packages/ { what = "installing into .venv" }
    END { if (what != "") printf ", %s", what }' "$1" 2>/dev/null || true
}
