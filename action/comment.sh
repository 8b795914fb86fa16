#!/usr/bin/env bash
# Keeps one comment on the pull request: the one with the marker is replaced.
# Where the API refuses, as it does for forks, the step summary holds the plan.
set -uo pipefail

file="${RUNNER_TEMP:?}/deployer/comment.md"
if [[ -z $NUMBER || ! -s $file ]]; then
  echo "no pull request, or nothing to say: no comment"
  exit 0
fi
comments="repos/${GITHUB_REPOSITORY:?}/issues/$NUMBER/comments"
refused() {
  echo "::warning::the comment was refused; the plan is in the summary of this job"
  exit 0
}
known=$(gh api "$comments" --paginate --jq \
  '.[] | select(.body | contains("<!-- deployer:plan -->")) | .id') || refused
id=$(head -n 1 <<<"$known")
if [[ -n $id ]]; then
  gh api --silent --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$id" \
    -F "body=@$file" || refused
else
  gh api --silent --method POST "$comments" -F "body=@$file" || refused
fi
