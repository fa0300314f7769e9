#include "bindings/load.h"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/memory.h"
#include "load/own_thread.h"
#include "load/pipeline.h"
#include "memory/host_buffer.h"

namespace py = pybind11;

namespace sllm {
void Interruption::operator()() {
  if (stop_.is_set()) throw Error(ErrorCode::kCancelled, "the load was cancelled");
  const auto now = std::chrono::steady_clock::now();
  if (!handles_signals_ || now < next_) return;
  next_ = now + kPeriod;
  const py::gil_scoped_acquire locked;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

PlannedFile planned_file(const py::tuple& file) {
  const auto [device, inode, bytes, modified_ns] =
      file[1].cast<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::int64_t>>();
  return {
      .path = file[0].cast<std::string>(),
      .identity = {device, inode, bytes, modified_ns},
      .span_crcs = file[2].cast<std::vector<std::uint32_t>>(),
      .resident = file.size() > 3 ? file[3].cast<HostBuffer&>().bytes() : std::span<std::byte>(),
  };
}

py::dict as_dict(const LoadReport& report) {
  using namespace py::literals;
  return py::dict(
      "bytes_read"_a = report.bytes_read, "bytes_in_place"_a = report.bytes_in_place,
      "bytes_cached"_a = report.bytes_cached, "bytes_mapped"_a = report.bytes_mapped,
      "bytes_resident"_a = report.bytes_resident, "bytes_verified"_a = report.bytes_verified,
      "bytes_registered"_a = report.bytes_registered, "bytes_huge"_a = report.bytes_huge,
      "bytes_to_devices"_a = report.bytes_to_devices, "bytes_staging"_a = report.bytes_staging,
      "bytes_pinned"_a = report.bytes_pinned, "reads"_a = report.reads, "repeats"_a = report.repeats,
      "deepest"_a = report.deepest, "direct_files"_a = report.direct_files,
      "buffered_files"_a = report.buffered_files, "check_threads"_a = report.check_threads,
      "prefault_threads"_a = report.prefault_threads, "devices"_a = report.devices, "queue"_a = report.queue,
      "total_s"_a = report.total_s, "read_wait_s"_a = report.read_wait_s, "fetch_s"_a = report.fetch_s,
      "check_wait_s"_a = report.check_wait_s, "check_idle_s"_a = report.check_idle_s,
      "verify_s"_a = report.verify_s, "copy_s"_a = report.copy_s, "prefault_s"_a = report.prefault_s,
      "device_s"_a = report.device_s, "device_wait_s"_a = report.device_wait_s, "cpu_s"_a = report.cpu_s);
}

namespace {

// As Extent has them: file, offset, bytes, target, destination, row_bytes, from_pitch, to_pitch.
using ExtentFields = std::array<std::uint64_t, 8>;

Extent extent_of(const ExtentFields& fields) {
  const auto& [file, offset, bytes, target, destination, row_bytes, from_pitch, to_pitch] = fields;
  return {file, offset, bytes, target, destination, row_bytes, from_pitch, to_pitch};
}

LoadPlan make_plan(const py::sequence& files, const std::vector<ExtentFields>& extents,
                   const std::vector<std::uint64_t>& target_bytes) {
  LoadPlan plan;
  for (const py::handle file : files) plan.files.push_back(planned_file(file.cast<py::tuple>()));
  plan.extents.reserve(extents.size());
  for (const ExtentFields& fields : extents) plan.extents.push_back(extent_of(fields));
  plan.target_bytes = target_bytes;
  validate(plan);
  return plan;
}

// A host buffer is fresh until a load has filled it.
py::dict load_plan(const LoadPlan& plan, const std::vector<py::object>& memory, LoadOptions options,
                   const StopFlag& stop, bool handles_signals) {
  std::vector<Target> targets;
  HostBuffer* host = nullptr;
  std::uint64_t host_bytes = 0;
  for (std::size_t i = 0; i < memory.size(); ++i) {
    targets.push_back(target_of(memory[i]));
    if (!py::isinstance<HostBuffer>(memory[i]) || i >= plan.target_bytes.size()) continue;
    host = memory[i].cast<HostBuffer*>();
    host_bytes = plan.target_bytes[i];
  }
  LoadReport report;
  {
    const py::gil_scoped_release unlocked;
    options.is_fresh = host != nullptr && !host->is_touched(host_bytes);
    run_in_own_thread(Interruption(stop, handles_signals),
                      [&](const Interrupt& interrupt) { report = load(plan, targets, options, interrupt); });
    if (host != nullptr && report.bytes_mapped == 0) host->note_touched(host_bytes);
  }
  return as_dict(report);
}

std::pair<py::dict, std::vector<std::pair<std::uint64_t, std::uint64_t>>> check_plan(
    const LoadPlan& plan, const LoadOptions& options, const StopFlag& stop, bool handles_signals) {
  CheckResult result;
  {
    const py::gil_scoped_release unlocked;
    run_in_own_thread(Interruption(stop, handles_signals),
                      [&](const Interrupt& interrupt) { result = check(plan, options, interrupt); });
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> bad;
  for (const BadSpan& span : result.bad_spans) bad.emplace_back(span.file, span.span);
  return {as_dict(result.report), bad};
}

}  // namespace

void bind_load(py::module_& module) {
  const LoadOptions defaults;
  py::class_<StopFlag>(module, "StopFlag")
      .def(py::init())
      .def("set", &StopFlag::set)
      .def("is_set", &StopFlag::is_set);
  py::class_<LoadPlan>(module, "LoadPlan")
      .def(py::init(&make_plan), py::arg("files"), py::arg("extents"), py::arg("target_bytes"),
           py::keep_alive<1, 2>());  // resident files lie in buffers of Python's
  py::native_enum<CacheUse>(module, "CacheUse", "enum.Enum")
      .value("NONE", CacheUse::kNone)
      .value("COPY", CacheUse::kCopy)
      .value("MAP_CACHED", CacheUse::kMapCached)
      .value("MAP", CacheUse::kMap)
      .finalize();
  py::class_<LoadOptions>(module, "LoadOptions")
      .def(py::init([](QueueKind queue, FileAccess access, CacheUse cache, unsigned depth,
                       std::uint64_t extent_bytes, unsigned check_threads, std::uint64_t staging_bytes,
                       bool registers) {
             return LoadOptions{.queue = queue_factory(queue),
                                .access = access,
                                .cache = cache,
                                .depth = depth,
                                .extent_bytes = extent_bytes,
                                .check_threads = check_threads,
                                .staging_bytes = staging_bytes,
                                .registers = registers,
                                .on_landed = nullptr};
           }),
           py::kw_only(), py::arg("queue") = QueueKind::kAuto, py::arg("access") = defaults.access,
           py::arg("cache") = defaults.cache, py::arg("depth") = defaults.depth,
           py::arg("extent_bytes") = defaults.extent_bytes, py::arg("check_threads") = defaults.check_threads,
           py::arg("staging_bytes") = defaults.staging_bytes, py::arg("registers") = defaults.registers);
  module.def("load", load_plan, py::arg("plan"), py::arg("memory"), py::arg("options"), py::arg("stop"),
             py::arg("handles_signals"));
  module.def("check", check_plan, py::arg("plan"), py::arg("options"), py::arg("stop"),
             py::arg("handles_signals"));
}

}  // namespace sllm
