#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "store/catalog.h"

namespace sllm {

// The parts that one reservation has taken over and not brought yet, span by span. A span is missing, coming
// (some call is bringing it), or landed. Bookkeeping alone; not thread-safe.
class Claims {
 public:
  enum class Begun { kComing, kHasLanded, kIsComing, kNotClaimed };
  enum class Ended {
    kNothing,
    kWhole,   // all of the part has landed: it is claimed no more
    kGivenUp  // nobody is bringing any of it and nobody shall: it is claimed no more
  };

  void add(PartId part, std::uint64_t spans);
  // Takes all of each part that nobody is bringing any of, what has landed there included: all of it is
  // coming.
  std::vector<PartId> begin_all();
  Begun begin(PartId part, std::uint64_t span);
  // The end of what has begun.
  Ended land(PartId part, std::uint64_t span);
  Ended miss(PartId part, std::uint64_t span);
  // Gives up the part, whatever is coming; false where it is claimed no more.
  bool drop(PartId part) { return claims_.erase(part) > 0; }
  // Gives up all parts; returns those that are claimed no more. The others go when nothing of them is coming.
  std::vector<PartId> give_up();

 private:
  enum class Span : std::uint8_t { kMissing, kComing, kLanded };
  struct Claim {
    std::vector<Span> spans;
    std::uint64_t coming = 0;
    std::uint64_t landed = 0;
    bool is_given_up = false;
  };

  Ended end(PartId part, std::uint64_t span, Span state);

  std::map<PartId, Claim> claims_;
};

}  // namespace sllm
