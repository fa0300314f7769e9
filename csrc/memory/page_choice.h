#pragma once

#include <cstdint>

namespace sllm {

enum class PageKind { kSmall, kHuge };

// Chooses between small and huge pages by how fast each came so far. Pure; not thread-safe.
//
// Huge pages take a sixth of the time where memory is whole, and several times longer where the kernel has to
// compact it first. Nothing says beforehand which it will be, and it may change on the way. So:
// 1. Huge pages are measured first, then small ones.
// 2. Huge ones are taken unless they cost more than `worth` times as much: whoever reads into them, and
//    whoever uses what lies there, gains from them later: a drive's requests get by with fewer segments, a
//    reader's page walks are shorter.
// 3. The other one is measured again after kFirstTrial populations, and each time it loses, after twice as
//    many as before, so that what is slow costs less and less.
class PageChoice {
 public:
  static constexpr double kWorth = 2;
  // Of shared memory: mapping its small pages takes each later process about as long as making them took,
  // mapping huge ones next to nothing.
  static constexpr double kWorthShared = 4;

  explicit PageChoice(double worth = kWorth) : worth_(worth) {}

  PageKind next();
  // What a population with pages of this kind took.
  void record(PageKind kind, std::uint64_t bytes, double seconds);

 private:
  struct Rate {
    double s_per_byte = 0;
    bool is_known = false;
  };

  static constexpr unsigned kFirstTrial = 16;
  static constexpr unsigned kLastTrial = 256;

  PageKind better() const;

  double worth_;
  Rate small_;
  Rate huge_;
  unsigned since_trial_ = 0;
  unsigned until_trial_ = kFirstTrial;
};

}  // namespace sllm
