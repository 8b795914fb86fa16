#!/usr/bin/env bash
# Keeps one comment on the pull request: the one with the marker is replaced, where the
# same account wrote it; what somebody else wrote is left alone, marker or not.
# A comment that could not be updated shows an old plan, so it fails the job; but for the
# pull request of a fork, whose token may write none: the summary of the job has its plan.
# `comment.sh result` adds what an apply did to the pull requests that were merged.
set -uo pipefail

work="${RUNNER_TEMP:?}/deployer"
file="$work/comment.md"
host="${GITHUB_SERVER_URL:-https://github.com}"
export GH_HOST="${host#*://}"
if [[ $GH_HOST != github.com ]]; then
  export GH_ENTERPRISE_TOKEN="$GH_TOKEN"
  unset GH_TOKEN
fi
refused() {
  local why="$1" level=error code=1
  [[ ${FORK:-} != true ]] || { level=warning && code=0; }
  why="${why//%/%25}" && why="${why//$'\r'/}" && why="${why//$'\n'/ }"
  echo "::$level title=deployer::no comment, the plan is in the summary of this job: $why"
  exit "$code"
}

repository="${GITHUB_REPOSITORY:?}"
mark="<!-- deployer:plan${LABEL:+ $LABEL} -->"
# GitHub names an app `x[bot]` where it asks, and `x` where it wrote something.
# shellcheck disable=SC2016 # the variables are those of GraphQL and jq
query='query($owner: String!, $name: String!, $number: Int!, $endCursor: String) {
  viewer { login }
  repository(owner: $owner, name: $name) { pullRequest(number: $number) {
    comments(first: 100, after: $endCursor) {
      nodes { databaseId body author { login } }
      pageInfo { hasNextPage endCursor } } } } }'
# shellcheck disable=SC2016 # as above
ours='.data | (.viewer.login | rtrimstr("[bot]")) as $me
  | .repository.pullRequest.comments.nodes[]
  | select(.author.login == $me and (.body | contains(env.MARK))) | .databaseId'

keep() {
  local found id
  found=$(MARK="$mark" gh api graphql --paginate -f "query=$query" \
    -F "owner=${repository%/*}" -F "name=${repository#*/}" -F "number=$NUMBER" \
    --jq "$ours") || return
  id=$(head -n 1 <<<"$found")
  if [[ -n $id ]]; then
    gh api --silent --method PATCH "repos/$repository/issues/comments/$id" \
      -F "body=@$file"
  else
    gh api --silent --method POST "repos/$repository/issues/$NUMBER/comments" \
      -F "body=@$file"
  fi
}

# Looked for again each time: a request that seems to have failed may have been heard.
try() {
  local pause said
  for pause in 1 3 0; do
    said=$(keep 2>&1 >/dev/null) && return
    [[ $said == *"HTTP 5"* && $pause != 0 ]] || refused "$said"
    sleep "$pause"
  done
}

if [[ ! -s $file || (-z ${NUMBER:-} && ${1:-} != result) ]]; then
  echo "no pull request, or nothing to say: no comment"
  exit 0
fi
command -v gh >/dev/null || refused "\`gh\` is not installed on this runner"
if [[ ${1:-} != result ]]; then
  try
  exit 0
fi
[[ -s $RUNNER_TEMP/deployer-approved/merged.txt ]] || exit 0
mark="<!-- deployer:applied${LABEL:+ $LABEL} ${GITHUB_SHA:?} -->"
page="$host/$repository/actions/runs/${GITHUB_RUN_ID:-}"
{
  head -c 60000 "$work/comment.md"
  printf '\n<sub>deployer · [run](%s)</sub>\n%s\n' "$page" "$mark"
} >"$work/result.md"
file="$work/result.md"
while read -r NUMBER; do try; done <"$RUNNER_TEMP/deployer-approved/merged.txt"
