#!/usr/bin/env bash
# One command of the action: its output goes to the step summary, its end to outputs.
# A failure is an output, so that the comment is written before the job fails.
# Written for bash 3.2, which macOS has: no empty array is expanded without a guard.
set -uo pipefail

work="${RUNNER_TEMP:?}/deployer"
rm -rf "$work" && mkdir -p "$work/plans"
here="${GITHUB_ACTION_PATH:?}/action"
tell() { python3 "$here/tell.py" "$@"; }
read -r -d '' -a paths <<<"${PATHS:?}" || true
[[ ${#paths[@]} != 0 ]] || { echo "::error::\`paths\` names nothing" && exit 3; }

# One run plans, and everything is made from it: the comment, the summary of the job and
# the saved plans.
plan() {
  local options=(--format markdown --detailed-exitcode --annotate)
  options+=(--summary "$work/summary.md")
  [[ -z $CHANGED_SINCE ]] || options+=(--changed-since "$CHANGED_SINCE")
  [[ -z $LABEL ]] || options+=(--label "$LABEL")
  [[ -z $AT_MERGE ]] || options+=(--at-merge "$AT_MERGE")
  if [[ ${WITHOUT_STATE:-} = true ]]; then
    options+=(--without-state) # fits no state, so there is nothing to save
  else
    options+=(--out "$work/plans")
  fi
  deployer plan "${paths[@]}" "${options[@]}" >"$work/comment.md"
}

# Applies what was approved, or else every path; the most severe code is the code.
apply() {
  local code=0 file options=(--json)
  if [[ $APPROVED = true ]]; then
    # What the pull requests have that were merged last, so that a run that was
    # cancelled or failed is made up for by the next.
    for file in "${paths[@]}"; do
      deployer apply "$file" --approved "$RUNNER_TEMP/deployer-approved" \
        "${options[@]}" || worse $?
    done
  elif [[ -n $PLAN_FILES ]]; then
    for file in "$PLAN_FILES"/*.plan; do
      [[ -e $file ]] || continue
      deployer apply "$file" "${options[@]}" || worse $?
    done
  else
    options+=(--yes)
    [[ -z $CHANGED_SINCE ]] || options+=(--changed-since "$CHANGED_SINCE")
    [[ $ALLOW_DESTROY != true ]] || options+=(--allow-destroy)
    for file in "${paths[@]}"; do
      deployer apply "$file" "${options[@]}" || worse $?
    done
  fi
  return "$code"
}

# Keeps the more severe of two codes, as `deployer.errors.worst_of` does.
worse() {
  local known
  for known in 70 1 4 3 6 9 7 5 8 10 2; do
    [[ $known != "$1" && $known != "$code" ]] || { code=$known && return; }
  done
  code=$1
}

# What is not approved, as plans to be confirmed in the environment.
plan_again() {
  deployer plan "${paths[@]}" --format markdown --out "$work/plans" \
    2>"$work/again.txt" >>"$work/comment.md" || true
}

said="$work/said.txt"
case "$COMMAND" in
plan)
  plan 2>"$said"
  code=$?
  tell neutral <"$said" >&2
  [[ -s $work/comment.md ]] ||
    tell said "#### deployer plan: failed, exit $code" <"$said" >"$work/comment.md"
  ;;
apply)
  apply 2>"$said" | tee "$work/events.jsonl"
  code=${PIPESTATUS[0]}
  tell neutral <"$said" >&2
  tell applied "$code" "$said" <"$work/events.jsonl" >"$work/comment.md"
  [[ $APPROVED != true || $code != 7 ]] || plan_again
  ;;
drift)
  deployer drift "${paths[@]}" --detailed-exitcode >"$work/found.txt" 2>"$said"
  code=$?
  tell neutral <"$said" >&2
  cat "$work/found.txt" "$said" |
    tell said "#### deployer drift: what runs otherwise than it was deployed" \
      >"$work/comment.md"
  ;;
check)
  read -r -d '' -a names <<<"$GATES" || true
  gates=()
  for name in ${names[@]+"${names[@]}"}; do gates+=(--gate "$name"); done
  code=0
  for path in "${paths[@]}"; do
    deployer check "$path" ${gates[@]+"${gates[@]}"} >>"$work/found.txt" 2>>"$said" ||
      worse $?
  done
  tell neutral <"$said" >&2
  cat "$work/found.txt" "$said" | tell said "#### deployer check" >"$work/comment.md"
  ;;
*)
  echo "::error::there is no command \`$COMMAND\`: plan, apply, drift or check"
  exit 3
  ;;
esac

[[ -s $work/summary.md ]] || cp "$work/comment.md" "$work/summary.md"
cat "$work/summary.md" >>"${GITHUB_STEP_SUMMARY:?}"
changes=false
failed=false
left=false
case "$COMMAND:$code" in
plan:2 | drift:2 | drift:10) changes=true ;;
apply:7) failed=true && left=true ;;
*:0) ;;
*) failed=true ;;
esac
{
  echo "changes=$changes"
  echo "failed=$failed"
  echo "left=$left"
  echo "exit-code=$code"
  echo "plan-file=$work/plans"
  echo "summary=$(head -n 1 "$work/comment.md")"
} >>"${GITHUB_OUTPUT:?}"
