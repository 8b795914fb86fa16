#!/usr/bin/env bash
# One command of the action: its output goes to the step summary, its end to outputs.
# A failure is told as an output, so that the comment is written before the job fails.
set -uo pipefail

work="${RUNNER_TEMP:?}/deployer"
rm -rf "$work" && mkdir -p "$work/plans"
read -r -a paths <<<"$PATHS"
since=()
[[ -z $CHANGED_SINCE ]] || since=(--changed-since "$CHANGED_SINCE")

# Saves the plan of every stack that would change; what is gone has no file to save.
save_plans() {
  deployer plan "${paths[@]}" "${since[@]}" --json 2>"$work/ignored" |
    python3 -c '
import json, sys
for line in map(json.loads, sys.stdin):
    here = line["type"] == "plan" and not line["empty"]
    if here and any(change["key"]["after"] for change in line["changes"]):
        print(line["file"])
' | while IFS= read -r file; do
    deployer plan "$file" --out "$work/plans/${file//\//_}.plan" >"$work/ignored" 2>&1 ||
      echo "::warning::the plan of $file was not saved"
  done
}

apply_plans() {
  local worst=0 file
  for file in "$PLAN_FILES"/*.plan; do
    [[ -e $file ]] || continue
    deployer apply "$file" --json || worst=$?
  done
  return "$worst"
}

case "$COMMAND" in
plan)
  deployer plan "${paths[@]}" "${since[@]}" --format markdown --detailed-exitcode \
    --annotate >"$work/comment.md"
  code=$?
  save_plans
  ;;
apply)
  allow=()
  [[ $ALLOW_DESTROY != true ]] || allow=(--allow-destroy)
  if [[ -n $PLAN_FILES ]]; then
    apply_plans | tee "$work/events.jsonl"
    code=${PIPESTATUS[0]}
  else
    deployer apply "${paths[@]}" "${since[@]}" "${allow[@]}" --yes --json |
      tee "$work/events.jsonl"
    code=${PIPESTATUS[0]}
  fi
  python3 -c '
import json, sys
found = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
done = sum(line["type"] == "applied" and line["changed"] for line in found)
failed = sum(line["type"] == "error" for line in found)
print(f"#### deployer apply: {done} changed, {failed} failed")
' "$work/events.jsonl" >"$work/comment.md"
  ;;
drift)
  deployer refresh "${paths[@]}" --detailed-exitcode >"$work/found.txt"
  code=$?
  { echo "#### deployer refresh: what runs otherwise than it was deployed" && echo &&
    sed 's/^/    /' "$work/found.txt"; } >"$work/comment.md"
  ;;
check)
  read -r -a names <<<"$GATES"
  gates=()
  for name in "${names[@]}"; do gates+=(--gate "$name"); done
  code=0
  for path in "${paths[@]}"; do
    deployer check "$path" "${gates[@]}" >>"$work/found.txt" || code=$?
  done
  { echo "#### deployer check" && echo && sed 's/^/    /' "$work/found.txt"; } \
    >"$work/comment.md"
  ;;
*)
  echo "::error::there is no command \`$COMMAND\`: plan, apply, drift or check"
  exit 3
  ;;
esac

cat "$work/comment.md" >>"${GITHUB_STEP_SUMMARY:?}"
changes=false
failed=false
case "$COMMAND:$code" in
plan:2 | drift:2) changes=true ;;
*:0) ;;
*) failed=true ;;
esac
{
  echo "changes=$changes"
  echo "failed=$failed"
  echo "exit-code=$code"
  echo "plan-file=$work/plans"
  echo "summary=$(head -n 1 "$work/comment.md")"
} >>"${GITHUB_OUTPUT:?}"
