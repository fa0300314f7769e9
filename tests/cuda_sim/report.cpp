// What the simulator tells about itself: counts, the report, the leaks at exit.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "cuda_sim/call.h"
#include "cuda_sim/cuda_sim.h"

namespace cuda_sim {
namespace {

using NamedCounts = std::map<std::string, long long, std::less<>>;

template <typename Number>
long long count_of(Number number) {
  return static_cast<long long>(number);
}

void add_device(const Device& device, NamedCounts& counts) {
  const NamedCounts own = {
      {"h2d_bytes", count_of(device.h2d.bytes())},    {"h2d_busy_us", device.h2d.busy_us()},
      {"d2h_bytes", count_of(device.d2h.bytes())},    {"d2h_busy_us", device.d2h.busy_us()},
      {"d2d_bytes", count_of(device.d2d.bytes())},    {"d2d_busy_us", device.d2d.busy_us()},
      {"allocated_bytes", count_of(device.allocated)}};
  for (const auto& [name, count] : own) {
    counts[name] += count;
    counts[name + "." + std::to_string(device.context.device)] = count;
  }
}

// What is alive, by name; each is a leak at exit.
NamedCounts alive(const Simulator& simulator) {
  const auto of_kind = [&](RegionKind kind) {
    return count_of(std::count_if(simulator.regions.begin(), simulator.regions.end(),
                                  [&](const auto& region) { return region.second.kind == kind; }));
  };
  NamedCounts counts = {{"allocations", of_kind(RegionKind::kPlain)},
                        {"opened", of_kind(RegionKind::kOpened)},
                        {"placements", of_kind(RegionKind::kPlaced)},
                        {"reservations", count_of(simulator.reservations.size())},
                        {"handles", count_of(simulator.handles.size())},
                        {"events", count_of(simulator.events.size())},
                        {"registrations", count_of(simulator.registrations.size())},
                        {"entered", simulator.entered},
                        {"contexts", 0},
                        {"streams", 0}};
  for (const Device& device : simulator.devices) {
    counts["contexts"] += device.context.retained > 0 ? 1 : 0;
    counts["streams"] += count_of(device.context.streams.size());
  }
  return counts;
}

NamedCounts all_counts(const Simulator& simulator) {
  NamedCounts counts = alive(simulator);
  for (const Device& device : simulator.devices) add_device(device, counts);
  counts["registered_bytes"] = count_of(simulator.registered_bytes());
  counts["most_registered_bytes"] = count_of(simulator.counts.most_registered);
  counts["calls"] = count_of(simulator.counts.all_calls);
  counts["calls_after_fork"] = count_of(simulator.calls_after_fork.load(std::memory_order_relaxed));
  counts["copies"] = count_of(simulator.counts.copies);
  counts["pageable_copies"] = count_of(simulator.counts.pageable_copies);
  counts["violations"] = count_of(simulator.counts.violations.size());
  return counts;
}

template <typename Numbers>
std::string to_json(const Numbers& numbers) {
  std::string text;
  for (const auto& [name, number] : numbers) {
    text += (text.empty() ? "\"" : ", \"") + name + "\": " + std::to_string(number);
  }
  return "{" + text + "}";
}

std::string report(const Simulator& simulator) {
  std::string violations;
  for (const std::string& violation : simulator.counts.violations) {
    violations += (violations.empty() ? "\"" : ", \"") + violation + "\"";
  }
  return "{\"counts\": " + to_json(all_counts(simulator)) +
         ", \"calls\": " + to_json(simulator.counts.calls) + ", \"violations\": [" + violations + "]}";
}

__attribute__((destructor)) void report_at_exit() {
  Simulator& simulator = Simulator::get();
  if (!is_started(simulator)) return;
  const Lock lock(simulator.mutex);
  for (const auto& [name, number] : alive(simulator)) {
    if (number != 0) std::fprintf(stderr, "cuda_sim: %lld %s left at exit\n", number, name.c_str());
  }
  for (const std::string& violation : simulator.counts.violations) {
    std::fprintf(stderr, "cuda_sim: violation: %s\n", violation.c_str());
  }
  if (!simulator.settings.report.empty()) std::ofstream(simulator.settings.report) << report(simulator);
}

}  // namespace
}  // namespace cuda_sim

int sllm_cuda_sim_configure(const char* settings) {
  cuda_sim::Simulator& simulator = cuda_sim::Simulator::get();
  const cuda_sim::Lock lock(simulator.mutex);
  cuda_sim::Settings wanted;
  const char* environment = std::getenv("SLLM_CUDA_SIM");
  if (environment != nullptr && !cuda_sim::apply(environment, wanted)) return -1;
  if (!cuda_sim::apply(settings, wanted)) return -1;
  simulator.use(wanted);
  return 0;
}

std::size_t sllm_cuda_sim_report(char* into, std::size_t bytes) {
  cuda_sim::Simulator& simulator = cuda_sim::Simulator::get();
  const cuda_sim::Lock lock(simulator.mutex);
  const std::string text = cuda_sim::report(simulator);
  if (bytes > 0) {
    const std::size_t copied = std::min(text.size(), bytes - 1);
    std::memcpy(into, text.data(), copied);
    into[copied] = '\0';
  }
  return text.size();
}

long long sllm_cuda_sim_count(const char* name) {
  cuda_sim::Simulator& simulator = cuda_sim::Simulator::get();
  const cuda_sim::Lock lock(simulator.mutex);
  const auto counts = cuda_sim::all_counts(simulator);
  if (const auto found = counts.find(name); found != counts.end()) return found->second;
  const auto calls = simulator.counts.calls.find(name);
  if (calls != simulator.counts.calls.end()) return static_cast<long long>(calls->second);
#define CUDA_SIM_IS_FUNCTION(symbol, ...) \
  if (std::strcmp(name, #symbol) == 0) return 0;
  SLLM_CUDA_FUNCTIONS(CUDA_SIM_IS_FUNCTION)
#undef CUDA_SIM_IS_FUNCTION
  return -1;
}
