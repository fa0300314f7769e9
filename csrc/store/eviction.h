#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <vector>

namespace sllm {

enum class EvictionPolicy { kGreedyDual, kLru };

// Which of several things of any size goes first when room is needed. Pure; not thread-safe.
//
// GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency
// Caching Policy", HP Laboratories 1998): a thing's priority is L + uses * cost / size, where the cost is
// what it takes to bring it back, and L, what the last one that went had for its priority. So what was used
// long ago falls behind, however often that was. The thing of least priority goes first, among equals the one
// that was used longest ago. LRU heeds the last use alone.
class EvictionOrder {
 public:
  using Key = std::uint64_t;

  // The lesser one goes first.
  struct Rank {
    double priority = 0;
    std::uint64_t last_use = 0;  // counted in uses of anything

    auto operator<=>(const Rank&) const = default;
  };

  explicit EvictionOrder(EvictionPolicy policy) : policy_(policy) {}

  // It was used, once more or for the first time. Throws invalid for a size of 0, a cost below 0 or no
  // number.
  void use(Key key, double cost_s, std::uint64_t bytes);
  // Bringing it back takes as long as that by now. Does nothing for a key that is unknown.
  void set_cost(Key key, double cost_s, std::uint64_t bytes);
  // It, or a part of it, goes to make room: L becomes its priority. Whoever has lost the last of it forgets
  // it.
  void note_evicted(Key key);
  // Its uses count no more.
  void forget(Key key);

  // Throws not_found.
  Rank rank_of(Key key) const;
  // All that are known, who goes first in front.
  std::vector<Key> order() const;

 private:
  struct Entry {
    double inflation = 0;  // L when it was last used
    double cost_s_per_byte = 0;
    std::uint64_t uses = 0;
    std::uint64_t last_use = 0;
  };

  Rank rank_of(const Entry& entry) const;

  EvictionPolicy policy_;
  double inflation_ = 0;
  std::uint64_t uses_ = 0;
  std::map<Key, Entry> entries_;
};

}  // namespace sllm
