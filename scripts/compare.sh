#!/usr/bin/env bash
# Sets creto and NATS JetStream side by side on this machine: the same loads by the same generator, each system started afresh for
# every run, one after the other and in another order in each repetition. Writes a table in Markdown, losses as plain as wins. It builds creto
# with the feature `nats` (CRETO names one that is built), and needs nats-server (apt install nats-server; CRETO_NATS_SERVER names another
# one) and openssl for JetStream over TLS. docs/performance.md says how to read it. Status 1: a run was not valid; the table says which.
#
#   scripts/compare.sh [--rates 1000,5000] [--sizes 1024] [--scenarios direct,fan-in,fan-out,mixed] [--repeat 3] [--duration 10s]
#                      [--warmup 2s] [--into docs/performance.md] [--dir DIR] [--keep DIR] [-- MORE OPTIONS OF creto bench run]
set -euo pipefail
cd "$(dirname "$0")/.."

rates=1000,5000 sizes=1024 scenarios=direct,fan-in,fan-out,mixed repeat=3 duration=10s warmup=2s into= dir= keep=
more=()
while [ $# -gt 0 ]; do
    case $1 in
        --rates) rates=${2:?--rates takes a list} ;;
        --sizes) sizes=${2:?--sizes takes a list} ;;
        --scenarios) scenarios=${2:?--scenarios takes a list} ;;
        --repeat) repeat=${2:?--repeat takes a number} ;;
        --duration) duration=${2:?--duration takes a time} ;;
        --warmup) warmup=${2:?--warmup takes a time} ;;
        --into) into=${2:?--into takes a document} ;;
        --dir) dir=${2:?--dir takes a folder} ;;
        --keep) keep=${2:?--keep takes a folder} ;;
        --) shift; more=("$@"); break ;;
        *) sed -n 's/^# \{0,1\}//p' "$0" | sed 1d | head -9 >&2; exit 2 ;;
    esac
    shift 2
done

creto=${CRETO:-${CARGO_TARGET_DIR:-target}/release/creto}
nats=${CRETO_NATS_SERVER:-nats-server}
[ -n "${CRETO:-}" ] || cargo build --locked --release --quiet --package creto-cli --features nats
[ -x "$creto" ] || { echo "$creto is not there: leave CRETO out, and it is built" >&2; exit 1; }
command -v "$nats" >/dev/null || { echo "nats-server is not installed: apt install nats-server, or say CRETO_NATS_SERVER=..." >&2; exit 1; }

# On a disk, as a node of the run's own is.
place=$(mktemp -d "${dir:-/var/tmp}/creto-compare-XXXXXX")
server=
end_server() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
    fi
}
trap 'end_server; rm -rf "$place"' EXIT
reports=${keep:-$place/reports}
mkdir -p "$reports"

tls() {
    [ -e "$place/tls.crt" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=nats \
        -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
        -keyout "$place/tls.key" -out "$place/tls.crt" 2>/dev/null
}

# The configuration of a server: default, always, or always-tls. Ports are free ones; where they are stands in a file.
configuration() {
    local sync='' secured=''
    case $1 in *always*) sync='sync_interval: always' ;; esac
    case $1 in *tls*) secured="tls { cert_file: \"$place/tls.crt\", key_file: \"$place/tls.key\" }" ;; esac
    printf 'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\nports_file_dir: "%s"\njetstream { store_dir: "%s/store"\n %s }\n%s\n' \
        "$place/ports" "$place" "$sync" "$secured"
}

systems=(creto)
skipped=()
for mode in default always always-tls; do
    if [ "$mode" = always-tls ]; then
        command -v openssl >/dev/null || { skipped+=("NATS $mode: openssl is not installed"); continue; }
        tls
    fi
    configuration "$mode" >"$place/trial.conf"
    if why=$("$nats" -t -c "$place/trial.conf" 2>&1); then
        systems+=("nats-$mode")
    else
        skipped+=("NATS $mode: $("$nats" --version) does not take it: $(printf '%s' "$why" | tail -1 | sed "s#$place/##g")")
    fi
done
[ "${#skipped[@]}" = 0 ] || printf 'left out: %s\n' "${skipped[@]}" >&2

start_server() {
    rm -rf "$place/store" "$place/ports"
    mkdir "$place/ports"
    configuration "$1" >"$place/nats.conf"
    "$nats" -c "$place/nats.conf" >"$place/nats.log" 2>&1 &
    server=$!
    local waited=0 file="$place/ports/$(basename "$nats")_$server.ports"
    # Written when it listens.
    until [ -s "$file" ]; do
        if ! kill -0 "$server" 2>/dev/null || [ $((waited += 1)) -gt 600 ]; then
            echo "nats-server did not start; it said:" >&2
            tail -5 "$place/nats.log" >&2
            exit 1
        fi
        sleep 0.05
    done
    address=$(grep -o '"nats": *\["[^"]*' "$file" | sed 's#.*//##')
    monitor=$(grep -o '"monitoring": *\["[^"]*' "$file" | sed 's#.*//##')
}

results=()
# One run: what it prints is kept, and one that is not valid is in the table with why.
measure() {
    local system=$1 file=$2 status=0 target=()
    shift 2
    case $system in
        creto) target=(--dir "$place") ;;
        *)
            start_server "${system#nats-}"
            target=(--target "nats://$address" --nats-monitor "$monitor" --node-pid "$server")
            case $system in *tls) target[1]="tls://$address" target+=(--certificate "$place/tls.crt") ;; esac
            ;;
    esac
    "$creto" bench run --json "${target[@]}" --duration "$duration" --warmup "$warmup" "$@" ${more[@]+"${more[@]}"} >"$file" || status=$?
    end_server
    [ "$status" -le 1 ] || { echo "a run of $system failed with status $status" >&2; exit "$status"; }
    results+=("$system=$file")
}

count=${#systems[@]}
for ((turn = 0; turn < repeat; turn++)); do
    for scenario in ${scenarios//,/ }; do
        for rate in ${rates//,/ }; do
            for size in ${sizes//,/ }; do
                for ((at = 0; at < count; at++)); do
                    # Whoever was first is last in the next turn, so that a machine that changes does it to all of them.
                    system=${systems[$(((at + turn) % count))]}
                    echo "turn $((turn + 1)) of $repeat: $scenario, $rate/s, $size bytes, $system" >&2
                    measure "$system" "$reports/$scenario-$rate-$size-$system-$turn.json" \
                        --scenario "$scenario" --rate "$rate" --size "$size" --seed "$((turn + 1))"
                done
            done
        done
    done
done

# The first that is named is the one that others are set against.
mapfile -t results < <(printf '%s\n' "${results[@]}" | sort -s -t= -k1,1)
note=()
for line in ${skipped[@]+"${skipped[@]}"}; do note+=(--left-out "$line"); done
status=0
"$creto" bench peers ${into:+--into "$into"} ${note[@]+"${note[@]}"} "${results[@]}" || status=$?
[ -z "$into" ] || echo "written into $into" >&2
exit "$status"
