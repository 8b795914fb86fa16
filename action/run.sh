#!/usr/bin/env bash
# One command of the action: its output goes to the step summary, its end to outputs.
# A failure is told as an output, so that the comment is written before the job fails.
set -uo pipefail

work="${RUNNER_TEMP:?}/deployer"
rm -rf "$work" && mkdir -p "$work/plans"
here="${GITHUB_ACTION_PATH:?}/action"
tell() { python3 "$here/tell.py" "$@"; }
read -r -a paths <<<"${PATHS:?}"
since=()
[[ -z $CHANGED_SINCE ]] || since=(--changed-since "$CHANGED_SINCE")
blind=()
[[ ${WITHOUT_STATE:-} != true ]] || blind=(--without-state)

# Saves the plan of every stack that would change; what is gone has no file to save.
save_plans() {
  [[ ${#blind[@]} = 0 ]] || return
  deployer plan "${paths[@]}" "${since[@]}" --json 2>"$work/ignored" | tell changed |
    while IFS= read -r file; do
      deployer plan "$file" --out "$work/plans/${file//\//_}.plan" \
        >"$work/ignored" 2>&1 || echo "::warning::the plan of $file was not saved"
    done
}

# Applies what was approved, or else every path; the worst code is the code.
apply() {
  local worst=0 file options=(--json)
  if [[ -n $PLAN_FILES ]]; then
    for file in "$PLAN_FILES"/*.plan; do
      [[ -e $file ]] || continue
      deployer apply "$file" "${options[@]}" || worst=$?
    done
    return "$worst"
  fi
  options+=(--yes "${since[@]}")
  [[ $ALLOW_DESTROY != true ]] || options+=(--allow-destroy)
  for file in "${paths[@]}"; do
    deployer apply "$file" "${options[@]}" || worst=$?
  done
  return "$worst"
}

said="$work/said.txt"
case "$COMMAND" in
plan)
  deployer plan "${paths[@]}" "${since[@]}" "${blind[@]}" --format markdown \
    --detailed-exitcode --annotate >"$work/comment.md" 2>"$said"
  code=$?
  cat "$said" >&2
  [[ -s $work/comment.md ]] ||
    tell said "#### deployer plan: failed, exit $code" <"$said" >"$work/comment.md"
  save_plans
  ;;
apply)
  apply 2>"$said" | tee "$work/events.jsonl"
  code=${PIPESTATUS[0]}
  cat "$said" >&2
  tell applied "$code" "$said" <"$work/events.jsonl" >"$work/comment.md"
  ;;
drift)
  deployer drift "${paths[@]}" --detailed-exitcode >"$work/found.txt" 2>"$said"
  code=$?
  cat "$said" >&2
  cat "$work/found.txt" "$said" |
    tell said "#### deployer drift: what runs otherwise than it was deployed" \
      >"$work/comment.md"
  ;;
check)
  read -r -a names <<<"$GATES"
  gates=()
  for name in "${names[@]}"; do gates+=(--gate "$name"); done
  code=0
  for path in "${paths[@]}"; do
    deployer check "$path" "${gates[@]}" >>"$work/found.txt" 2>>"$said" || code=$?
  done
  cat "$said" >&2
  cat "$work/found.txt" "$said" | tell said "#### deployer check" >"$work/comment.md"
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
