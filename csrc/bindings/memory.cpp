#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/size.h"
#include "bindings/bindings.h"
#include "bindings/dlpack.h"
#include "memory/host_buffer.h"

namespace py = pybind11;

namespace sllm {
namespace {

// One exported tensor: a range of the buffer, and the reference that keeps the buffer.
struct Export {
  dlpack::ManagedTensor managed;
  std::int64_t shape;
  std::shared_ptr<HostBuffer> buffer;
};

void release(dlpack::ManagedTensor* managed) { delete static_cast<Export*>(managed->context); }

// Runs when nobody has taken the tensor out of its capsule; a consumer renames the capsule.
void release_unconsumed(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, dlpack::kCapsuleName) == 0) return;
  release(static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, dlpack::kCapsuleName)));
}

py::object make_capsule(const std::shared_ptr<HostBuffer>& buffer, std::uint64_t offset,
                        std::uint64_t bytes) {
  if (checked_add(offset, bytes) > buffer->bytes().size()) {
    throw Error(ErrorCode::kInvalid, std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                                         " leave a buffer of " + std::to_string(buffer->bytes().size()));
  }
  auto owned = std::make_unique<Export>();
  owned->shape = static_cast<std::int64_t>(bytes);
  owned->buffer = buffer;
  owned->managed.tensor = {
      .data = buffer->bytes().data() + offset,
      .device = {dlpack::kDeviceCpu, 0},
      .dimensions = 1,
      .dtype = {dlpack::kTypeUnsigned, 8, 1},
      .shape = &owned->shape,
      .strides = nullptr,
      .byte_offset = 0,
  };
  owned->managed.context = owned.get();
  owned->managed.deleter = release;
  PyObject* capsule = PyCapsule_New(&owned->managed, dlpack::kCapsuleName, release_unconsumed);
  if (capsule == nullptr) throw py::error_already_set();
  static_cast<void>(owned.release());
  return py::reinterpret_steal<py::object>(capsule);
}

// A capsule for each (offset, bytes): uint8, one dimension.
py::list export_ranges(const std::shared_ptr<HostBuffer>& buffer, const std::vector<std::uint64_t>& offsets,
                       const std::vector<std::uint64_t>& sizes) {
  if (offsets.size() != sizes.size()) throw Error(ErrorCode::kInvalid, "offsets and sizes differ in number");
  py::list capsules(offsets.size());
  for (std::size_t i = 0; i < offsets.size(); ++i) capsules[i] = make_capsule(buffer, offsets[i], sizes[i]);
  return capsules;
}

py::buffer_info view_of(HostBuffer& buffer) {
  return py::buffer_info(reinterpret_cast<std::uint8_t*>(buffer.bytes().data()),
                         static_cast<py::ssize_t>(buffer.bytes().size()));
}

}  // namespace

void bind_memory(py::module_& module) {
  py::class_<HostBuffer, std::shared_ptr<HostBuffer>>(
      module, "HostBuffer", py::buffer_protocol(),
      "Page-aligned host memory of `nbytes` bytes that loads can fill again and again (memory= of "
      "load_tensors).\n\n"
      "Tensors made of it keep it alive, and change when it is filled again. Raises OutOfMemoryError.")
      .def(py::init(&HostBuffer::allocate), py::arg("nbytes"))
      .def_buffer(view_of)
      .def("__len__", [](const HostBuffer& buffer) { return buffer.bytes().size(); })
      .def("export_ranges", export_ranges, py::arg("offsets"), py::arg("sizes"));
}

}  // namespace sllm
