#include "store/eviction.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace sllm {
namespace {

double per_byte(double cost_s, std::uint64_t bytes) {
  if (bytes == 0 || !std::isfinite(cost_s) || cost_s < 0) {
    throw Error(ErrorCode::kInvalid, "a thing of " + std::to_string(bytes) + " bytes that takes " +
                                         std::to_string(cost_s) + " s to bring back");
  }
  return cost_s / static_cast<double>(bytes);
}

}  // namespace

void EvictionOrder::use(Key key, double cost_s, std::uint64_t bytes) {
  const double cost_s_per_byte = per_byte(cost_s, bytes);
  Entry& entry = entries_[key];
  entry.inflation = inflation_;
  entry.cost_s_per_byte = cost_s_per_byte;
  entry.last_use = ++uses_;
  ++entry.uses;
}

void EvictionOrder::set_cost(Key key, double cost_s, std::uint64_t bytes) {
  const double cost_s_per_byte = per_byte(cost_s, bytes);
  const auto found = entries_.find(key);
  if (found != entries_.end()) found->second.cost_s_per_byte = cost_s_per_byte;
}

void EvictionOrder::note_evicted(Key key) {
  // What was taken out of turn, because its betters were held, must not pull L back.
  inflation_ = std::max(inflation_, rank_of(key).priority);
}

void EvictionOrder::forget(Key key) { entries_.erase(key); }

EvictionOrder::Rank EvictionOrder::rank_of(Key key) const {
  const auto found = entries_.find(key);
  if (found == entries_.end()) {
    throw Error(ErrorCode::kNotFound, "nothing to evict has the key " + std::to_string(key));
  }
  return rank_of(found->second);
}

EvictionOrder::Rank EvictionOrder::rank_of(const Entry& entry) const {
  if (policy_ == EvictionPolicy::kLru) return {.priority = 0, .last_use = entry.last_use};
  return {.priority = entry.inflation + static_cast<double>(entry.uses) * entry.cost_s_per_byte,
          .last_use = entry.last_use};
}

std::vector<EvictionOrder::Key> EvictionOrder::order() const {
  std::vector<Key> keys;
  for (const auto& [key, entry] : entries_) keys.push_back(key);
  std::sort(keys.begin(), keys.end(), [this](Key a, Key b) { return rank_of(a) < rank_of(b); });
  return keys;
}

}  // namespace sllm
