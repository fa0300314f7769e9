#include <pybind11/native_enum.h>

#include <string>

#include "bindings/bindings.h"
#include "io/file.h"
#include "io/read_queue.h"
#include "load/own_thread.h"

namespace py = pybind11;

namespace sllm {
namespace {

// By a real read of the descriptor's first block, as a load probes its first file, and in a thread of its own
// as a load has one.
std::string probe_queue(QueueKind kind, int fd) {
  const py::gil_scoped_release unlocked;
  std::string name;
  run_in_own_thread([] {}, [&](const Interrupt&) { name = make_read_queue(kind, 1, fd)->name(); });
  return name;
}

}  // namespace

void bind_io(py::module_& module) {
  py::native_enum<QueueKind>(module, "QueueKind", "enum.Enum")
      .value("AUTO", QueueKind::kAuto)
      .value("URING", QueueKind::kUring)
      .value("THREADS", QueueKind::kThreaded)
      .finalize();
  py::native_enum<FileAccess>(module, "FileAccess", "enum.Enum")
      .value("DIRECT", FileAccess::kDirect)
      .value("BUFFERED", FileAccess::kBuffered)
      .finalize();
  module.def("probe_queue", probe_queue, py::arg("kind"), py::arg("fd"));
}

}  // namespace sllm
