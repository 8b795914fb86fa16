#!/usr/bin/env bash
# Keeps one comment on the pull request: the one with the marker is replaced, where the
# same account wrote it; what somebody else wrote is left alone, marker or not.
# Where the API refuses, as it does for forks, the step summary holds the plan.
set -uo pipefail

file="${RUNNER_TEMP:?}/deployer/comment.md"
if [[ -z $NUMBER || ! -s $file ]]; then
  echo "no pull request, or nothing to say: no comment"
  exit 0
fi
refused() {
  local why="$1"
  why="${why//%/%25}" && why="${why//$'\r'/}" && why="${why//$'\n'/ }"
  echo "::warning title=deployer::no comment, the plan is in the summary of this job: $why"
  exit 0
}
command -v gh >/dev/null || refused "\`gh\` is not installed on this runner"

repository="${GITHUB_REPOSITORY:?}"
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
  | select(.author.login == $me and (.body | contains("<!-- deployer:plan -->")))
  | .databaseId'

keep() {
  local found id
  found=$(gh api graphql --paginate -f "query=$query" -F "owner=${repository%/*}" \
    -F "name=${repository#*/}" -F "number=$NUMBER" --jq "$ours") || return
  id=$(head -n 1 <<<"$found")
  if [[ -n $id ]]; then
    gh api --silent --method PATCH "repos/$repository/issues/comments/$id" \
      -F "body=@$file"
  else
    gh api --silent --method POST "repos/$repository/issues/$NUMBER/comments" \
      -F "body=@$file"
  fi
}

# Looked for anew each time: a request that seems to have failed may have been heard.
for pause in 1 3 0; do
  said=$(keep 2>&1 >/dev/null) && exit 0
  [[ $said == *"HTTP 5"* && $pause != 0 ]] || refused "$said"
  sleep "$pause"
done
