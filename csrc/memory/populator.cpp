#include "memory/populator.h"

#include <algorithm>

#include "base/clock.h"
#include "base/size.h"
#include "memory/populate.h"

namespace sllm {

namespace {

// Of memory that reaches to where huge pages begin and end, but for the ends of what it was cut out of.
std::span<std::byte> huge_pages_in(std::span<std::byte> memory) {
  const auto start = reinterpret_cast<std::uintptr_t>(memory.data());
  const auto begin = align_up(start, kHugePageBytes);
  const auto end = align_down(start + memory.size(), kHugePageBytes);
  return begin < end ? memory.subspan(begin - start, end - begin) : std::span<std::byte>();
}

// Bytes that are in huge pages then. Where no page is, nothing can be collapsed.
std::uint64_t bring_huge(std::span<std::byte> pages) {
  for (std::size_t at = 0; at < pages.size(); at += kHugePageBytes) populate_write(pages.subspan(at, 1));
  return !pages.empty() && collapse(pages) ? pages.size() : 0;
}

}  // namespace

Populator::Populator(std::span<std::byte> memory, Backing backing)
    : memory_(memory),
      backing_(backing),
      can_populate_(sllm::can_populate()),
      choice_(backing == Backing::kShared ? PageChoice::kWorthShared : PageChoice::kWorth) {
  if (backing_ == Backing::kPrivate) advise_pages(memory_, PageKind::kHuge);
}

void Populator::populate(std::span<std::byte> part) {
  if (!can_populate_ || part.empty()) return;
  PageKind kind;
  {
    const std::lock_guard lock(mutex_);
    kind = choice_.next();
  }
  // The choice is made by CPU time: other threads' work must not pass for the kernel's.
  const double cpu_before_s = thread_cpu_s();
  const std::uint64_t huge_bytes = bring(part, kind);
  const double cpu_s = thread_cpu_s() - cpu_before_s;
  const std::lock_guard lock(mutex_);
  choice_.record(kind, part.size(), cpu_s);
  huge_bytes_ += huge_bytes;
}

std::uint64_t Populator::bring(std::span<std::byte> part, PageKind kind) {
  std::uint64_t huge_bytes = kind == PageKind::kHuge ? part.size() : 0;
  const std::span<std::byte> whole = with_whole_huge_pages(part);
  if (backing_ == Backing::kPrivate && kind == PageKind::kSmall) advise_pages(whole, kind);
  if (backing_ == Backing::kShared && kind == PageKind::kHuge) {
    huge_bytes = std::min<std::uint64_t>(part.size(), bring_huge(huge_pages_in(whole)));
  }
  populate_write(part);
  return huge_bytes;
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
