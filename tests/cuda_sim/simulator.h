#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "cuda_sim/link.h"
#include "cuda_sim/memory.h"
#include "cuda_sim/settings.h"
#include "cuda_sim/stream.h"
#include "device/cuda_abi.h"

namespace cuda_sim {

using sllm::cuda::Result;

// The primary context of a device; there are no others. It exists while it is retained.
struct Context {
  int device = 0;
  unsigned retained = 0;
  ContextState state;
  std::map<std::uint64_t, std::unique_ptr<Stream>> streams;  // by number

  Result error() const { return static_cast<Result>(state.error.load(std::memory_order_relaxed)); }
};

struct Device {
  Link h2d, d2h, d2d;
  std::uint64_t allocated = 0;
  Context context;
};

struct Event {
  Context* context = nullptr;
  std::shared_ptr<Mark> mark;  // none before it is recorded
};

// Host memory known to the driver.
struct Registration {
  std::uint64_t bytes = 0;
  Context* context = nullptr;
  bool is_portable = false;
};

// What happened since the settings were made.
struct Counts {
  std::map<std::string, std::uint64_t, std::less<>> calls;
  std::uint64_t all_calls = 0;
  std::uint64_t copies = 0;
  std::uint64_t pageable_copies = 0;
  std::uint64_t most_registered = 0;
  std::vector<std::string> violations;
};

// Everything there is. One lock for all of it, which the streams' threads never take.
//
// Made on first use and never destroyed, since streams that were forgotten still run at exit.
class Simulator {
 public:
  static Simulator& get();

  std::mutex mutex;
  Settings settings;
  Counts counts;
  std::array<Device, kMostDevices> devices;
  std::vector<int> visible;       // which device an ordinal means
  std::atomic<pid_t> process{0};  // that called cuInit
  std::atomic<std::uint64_t> calls_after_fork{0};
  Regions regions;
  std::map<Address, std::unique_ptr<Reservation>> reservations;
  std::map<std::uint64_t, std::shared_ptr<Backing>> handles;
  std::map<const std::byte*, Registration> registrations;
  std::map<std::uint64_t, Event> events;
  std::uint64_t last_number = 0;  // of handles, events and streams
  std::int64_t entered = 0;       // contexts pushed and not popped

  void use(const Settings& wanted);
  std::uint64_t registered_bytes() const;

  // Writes down what a program must not do, and gives the code back.
  Result refuse(Result code, const std::string& text);
  // Its copies are off: those under way end, the rest are skipped.
  void lose(Context& context, Result code);
  // Waits for the copies that touch the memory, if nobody did, and writes that down.
  void settle(std::span<const std::byte> memory, const char* what);
  // A mark was seen: what came before it, in whichever streams, is over.
  void note_done(const Mark& mark);
  // The context ends, and with it what it still has.
  void end(Context& context);

  // The code with which the call that begins now fails on request.
  Result fault_of(std::string_view function);
  int fault_of_copy();

 private:
  Simulator();
  std::uint64_t reclaim(Context& context);
};

}  // namespace cuda_sim
