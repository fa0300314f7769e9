#include "memory/populator.h"

#include <algorithm>

#include "base/clock.h"
#include "base/size.h"
#include "memory/populate.h"

namespace sllm {

Populator::Populator(std::span<std::byte> memory) : memory_(memory), can_populate_(sllm::can_populate()) {
  advise_pages(memory_, PageKind::kHuge);
}

void Populator::populate(std::span<std::byte> part) {
  if (!can_populate_) return;
  PageKind kind;
  {
    const std::lock_guard lock(mutex_);
    kind = choice_.next();
  }
  // The choice is made by CPU time: other threads' work must not pass for the kernel's.
  const double cpu_before_s = thread_cpu_s();
  if (kind == PageKind::kSmall) advise_pages(with_whole_huge_pages(part), kind);
  populate_write(part);
  const double cpu_s = thread_cpu_s() - cpu_before_s;
  const std::lock_guard lock(mutex_);
  choice_.record(kind, part.size(), cpu_s);
  if (kind == PageKind::kHuge) huge_bytes_ += part.size();
}

std::uint64_t Populator::huge_bytes() const {
  const std::lock_guard lock(mutex_);
  return huge_bytes_;
}

// The kernel forms a huge page only where one kind of advice holds for all of it.
std::span<std::byte> Populator::with_whole_huge_pages(std::span<std::byte> part) const {
  const auto start = reinterpret_cast<std::uintptr_t>(memory_.data());
  const auto begin = align_down(reinterpret_cast<std::uintptr_t>(part.data()), kHugePageBytes);
  const auto end = align_up(reinterpret_cast<std::uintptr_t>(part.data()) + part.size(), kHugePageBytes);
  const auto from = std::max(begin, start) - start;
  return memory_.subspan(from, std::min(end - start, memory_.size()) - from);
}

}  // namespace sllm
