#include "store/claims.h"

#include <algorithm>

namespace sllm {

void Claims::add(PartId part, std::uint64_t spans) {
  claims_[part] = {.spans = std::vector<Span>(spans), .coming = 0, .landed = 0, .is_given_up = false};
}

std::vector<PartId> Claims::begin_all() {
  std::vector<PartId> begun;
  for (auto& [part, claim] : claims_) {
    if (claim.coming > 0 || claim.is_given_up) continue;
    std::fill(claim.spans.begin(), claim.spans.end(), Span::kComing);
    claim.coming = claim.spans.size();
    claim.landed = 0;
    begun.push_back(part);
  }
  return begun;
}

Claims::Begun Claims::begin(PartId part, std::uint64_t span) {
  const auto found = claims_.find(part);
  if (found == claims_.end() || found->second.is_given_up) return Begun::kNotClaimed;
  Span& state = found->second.spans[span];
  if (state == Span::kLanded) return Begun::kHasLanded;
  if (state == Span::kComing) return Begun::kIsComing;
  state = Span::kComing;
  ++found->second.coming;
  return Begun::kComing;
}

Claims::Ended Claims::land(PartId part, std::uint64_t span) { return end(part, span, Span::kLanded); }

Claims::Ended Claims::miss(PartId part, std::uint64_t span) { return end(part, span, Span::kMissing); }

Claims::Ended Claims::end(PartId part, std::uint64_t span, Span state) {
  const auto found = claims_.find(part);
  if (found == claims_.end()) return Ended::kNothing;
  Claim& claim = found->second;
  if (claim.spans[span] != Span::kComing) return Ended::kNothing;
  claim.spans[span] = state;
  --claim.coming;
  claim.landed += state == Span::kLanded;
  const bool is_whole = claim.landed == claim.spans.size();
  if (!is_whole && (claim.coming > 0 || !claim.is_given_up)) return Ended::kNothing;
  claims_.erase(found);
  return is_whole ? Ended::kWhole : Ended::kGivenUp;
}

std::vector<PartId> Claims::give_up() {
  std::vector<PartId> gone;
  for (auto& [part, claim] : claims_) {
    claim.is_given_up = true;
    if (claim.coming == 0) gone.push_back(part);
  }
  for (const PartId& part : gone) claims_.erase(part);
  return gone;
}

}  // namespace sllm
