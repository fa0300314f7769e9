#include "memory/warmer.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/size.h"
#include "memory/numa.h"
#include "memory/populate.h"

namespace sllm {
namespace {

// Long enough that the calls don't count, short enough for a load that begins, or an owner that ends.
constexpr std::uint64_t kStepBytes = 64 * kMiB;
constexpr int kLeastPriority = 19;

// A thread's own, as Linux has it (setpriority(2)). Refused, it runs as the others do.
void give_way() {
  const auto thread = static_cast<id_t>(::syscall(SYS_gettid));
  static_cast<void>(::setpriority(PRIO_PROCESS, thread, kLeastPriority));
}

}  // namespace

Warmer::Warmer(ChunkPool& pool) : pool_(pool), populator_(pool.memory(), Backing::kShared) {}

void Warmer::start() {
  if (!can_populate()) return;
  spread_over_nodes();
  try {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  } catch (const std::system_error& error) {
    throw error_from_errno(error.code().value(), "cannot start a thread that warms the pool");
  }
}

Warmer::Pause Warmer::pause() {
  const std::lock_guard lock(mutex_);
  ++pauses_;
  return Pause(this);
}

void Warmer::resume() {
  {
    const std::lock_guard lock(mutex_);
    --pauses_;
  }
  resumed_.notify_all();
}

// A container may be forbidden to (EPERM, ENOSYS), and one node less is no harm: then memory comes from
// wherever the kernel takes it.
void Warmer::spread_over_nodes() {
  const std::vector<unsigned> nodes = nodes_with_cores();
  if (nodes.size() < 2) return;
  for (const NodeShare& share : divide_among(nodes, pool_.chunks())) {
    if (!prefer_node(pool_.memory(share.chunks), share.node)) return;
  }
}

void Warmer::run(const std::stop_token& stop) {
  give_way();
  std::uint64_t next = 0;
  while (const auto chunks = find_untouched(next)) {
    if (!warm(*chunks, stop)) return;
    pool_.note_touched(*chunks);
    next = chunks->first + chunks->count;
  }
  is_finished_.store(true, std::memory_order_release);
}

// The next of them, and its neighbours, a step's worth at the most.
std::optional<ChunkRange> Warmer::find_untouched(std::uint64_t from) const {
  const std::uint64_t most = std::max<std::uint64_t>(kStepBytes / pool_.chunk_bytes(), 1);
  ChunkRange found{from, 0};
  while (found.first < pool_.chunks() && pool_.is_touched(found.first)) ++found.first;
  const auto end = std::min(found.first + most, pool_.chunks());
  while (found.first + found.count < end && !pool_.is_touched(found.first + found.count)) ++found.count;
  return found.count > 0 ? std::optional(found) : std::nullopt;
}

bool Warmer::warm(ChunkRange chunks, const std::stop_token& stop) {
  for (auto rest = pool_.memory(chunks); !rest.empty();) {
    if (!wait_while_paused(stop)) return false;
    const auto step = std::min<std::size_t>(rest.size(), kStepBytes);
    populator_.populate(rest.first(step));
    rest = rest.subspan(step);
  }
  return true;
}

// False where it shall stop.
bool Warmer::wait_while_paused(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  return resumed_.wait(lock, stop, [this] { return pauses_ == 0; }) && !stop.stop_requested();
}

}  // namespace sllm
