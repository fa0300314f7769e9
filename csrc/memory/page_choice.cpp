#include "memory/page_choice.h"

#include <algorithm>

namespace sllm {

PageKind PageChoice::next() {
  if (!huge_.is_known) return PageKind::kHuge;
  if (!small_.is_known) return PageKind::kSmall;
  if (++since_trial_ < until_trial_) return better();
  since_trial_ = 0;
  until_trial_ = std::min(2 * until_trial_, kLastTrial);
  return better() == PageKind::kHuge ? PageKind::kSmall : PageKind::kHuge;
}

void PageChoice::record(PageKind kind, std::uint64_t bytes, double seconds) {
  if (bytes == 0) return;
  Rate& rate = kind == PageKind::kHuge ? huge_ : small_;
  const double latest = seconds / static_cast<double>(bytes);
  const PageKind before = better();
  // Of the kind in use, one slow population does not decide, two do; of the other one there is only the
  // trial.
  rate.s_per_byte = rate.is_known && kind == before ? (rate.s_per_byte + latest) / 2 : latest;
  rate.is_known = true;
  if (better() != before) until_trial_ = kFirstTrial;
}

PageKind PageChoice::better() const {
  return huge_.s_per_byte <= worth_ * small_.s_per_byte ? PageKind::kHuge : PageKind::kSmall;
}

}  // namespace sllm
