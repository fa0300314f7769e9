#include "bindings/memory.h"

#include <pybind11/stl.h>

#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/size.h"
#include "bindings/bindings.h"
#include "bindings/dlpack.h"

namespace py = pybind11;

namespace sllm {
namespace {

constexpr std::pair<std::uint8_t, std::uint8_t> kBytes{1, 8};  // unsigned, of 8 bits

ExportedTensor whole_of(const std::shared_ptr<HostBuffer>& buffer) {
  return {.owner = buffer,
          .address = reinterpret_cast<std::uint64_t>(buffer->bytes().data()),
          .bytes = buffer->bytes().size(),
          .shape = {}};
}

ExportedTensor whole_of(const std::shared_ptr<DeviceBuffer>& buffer) {
  return {.owner = buffer,
          .address = buffer->memory->address(),
          .bytes = buffer->memory->bytes(),
          .device_type = buffer->device->kind() == DeviceKind::kCuda ? kDlpackCuda : kDlpackCpu,
          .device_id = buffer->device->ordinal(),
          .shape = {}};
}

// The part of a buffer that a dense tensor of this type (code and bits) and shape takes from an offset on.
ExportedTensor part_of(const ExportedTensor& whole, std::uint64_t offset,
                       std::pair<std::uint8_t, std::uint8_t> type, std::vector<std::int64_t> shape) {
  std::uint64_t bits = type.second;
  for (const std::int64_t count : shape) {
    if (count < 0 || __builtin_mul_overflow(bits, static_cast<std::uint64_t>(count), &bits)) {
      throw Error(ErrorCode::kInvalid, "a shape that no memory holds");
    }
  }
  const std::uint64_t bytes = (bits + 7) / 8;
  if (checked_add(offset, bytes) > whole.bytes) {
    throw Error(ErrorCode::kInvalid, std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                                         " leave a buffer of " + std::to_string(whole.bytes));
  }
  ExportedTensor part = whole;
  part.address += offset;
  part.bytes = bytes;
  std::tie(part.type_code, part.type_bits) = type;
  part.shape = std::move(shape);
  return part;
}

// A capsule for each offset and shape: uint8.
template <typename Buffer>
py::list export_bytes(const std::shared_ptr<Buffer>& buffer, const std::vector<std::uint64_t>& offsets,
                      std::vector<std::vector<std::int64_t>> shapes) {
  if (offsets.size() != shapes.size()) throw Error(ErrorCode::kInvalid, "offsets and shapes differ in number");
  const ExportedTensor whole = whole_of(buffer);
  py::list capsules(offsets.size());
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    capsules[i] = make_capsule(part_of(whole, offsets[i], kBytes, std::move(shapes[i])), false);
  }
  return capsules;
}

template <typename Buffer>
py::object export_tensor(const std::shared_ptr<Buffer>& buffer, std::uint64_t offset,
                         std::pair<std::uint8_t, std::uint8_t> type, std::vector<std::int64_t> shape,
                         bool is_versioned) {
  return make_capsule(part_of(whole_of(buffer), offset, type, std::move(shape)), is_versioned);
}

py::buffer_info view_of(HostBuffer& buffer) {
  return py::buffer_info(reinterpret_cast<std::uint8_t*>(buffer.bytes().data()),
                         static_cast<py::ssize_t>(buffer.bytes().size()));
}

std::shared_ptr<DeviceBuffer> allocate(const std::shared_ptr<Device>& device, std::uint64_t bytes,
                                       bool is_shareable) {
  const py::gil_scoped_release unlocked;
  const AllocationKind kind = is_shareable ? AllocationKind::kShareable : AllocationKind::kPlain;
  return std::make_shared<DeviceBuffer>(DeviceBuffer{device, device->allocate(bytes, kind)});
}

// A host buffer that a device's driver has pinned; released, in this order, with the object.
struct Pin {
  std::shared_ptr<HostBuffer> buffer;
  std::unique_ptr<HostRegistration> registration;
};

std::shared_ptr<Pin> pin(Device& device, const std::shared_ptr<HostBuffer>& buffer) {
  const py::gil_scoped_release unlocked;
  return std::make_shared<Pin>(Pin{buffer, device.register_host(buffer->bytes())});
}

void copy_to_host(const DeviceBuffer& buffer, std::uint64_t offset, const py::buffer& into) {
  const py::buffer_info view = into.request(true);
  const auto bytes = bytes_of(view);
  if (checked_add(offset, bytes.size()) > buffer.memory->bytes()) {
    throw Error(ErrorCode::kInvalid, std::to_string(bytes.size()) + " bytes at " + std::to_string(offset) +
                                         " leave a buffer of " + std::to_string(buffer.memory->bytes()));
  }
  const py::gil_scoped_release unlocked;
  const auto stream = buffer.device->make_stream();
  stream->copy_out({static_cast<std::byte*>(view.ptr), bytes.size()}, buffer.memory->address() + offset);
  stream->finish();
}

}  // namespace

Target target_of(const py::handle& memory) {
  if (py::isinstance<HostBuffer>(memory)) return Target::in_host(memory.cast<HostBuffer&>().bytes());
  if (py::isinstance<DeviceBuffer>(memory)) {
    const auto& buffer = memory.cast<const DeviceBuffer&>();
    return {
        .device = buffer.device.get(), .start = buffer.memory->address(), .bytes = buffer.memory->bytes()};
  }
  if (py::isinstance<AddressSpace>(memory)) {
    return {.device = memory.cast<const AddressSpace&>().device.get(),
            .bytes = std::numeric_limits<std::uint64_t>::max(),
            .is_exclusive = false};
  }
  throw Error(ErrorCode::kInvalid, "memory that no load can fill");
}

namespace {

void bind_devices(py::module_& module) {
  py::class_<Device, std::shared_ptr<Device>>(module, "Device")
      .def_property_readonly("name", &Device::name)
      .def_property_readonly("model", &Device::model)
      .def_property_readonly("ordinal", &Device::ordinal)
      .def_property_readonly("uuid", [](const Device& device) { return uuid_text(device.uuid()); })
      .def_property_readonly("free_bytes", [](const Device& device) { return device.memory().free_bytes; })
      .def_property_readonly("total_bytes", [](const Device& device) { return device.memory().total_bytes; })
      .def("allocate", allocate, py::arg("nbytes"), py::arg("is_shareable") = false)
      .def("pin", pin, py::arg("buffer"));
  py::class_<Pin, std::shared_ptr<Pin>>(module, "Pin");
  module.def("find_device", find_device, py::arg("name"), py::call_guard<py::gil_scoped_release>());
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
      .def("export_bytes", export_bytes<HostBuffer>, py::arg("offsets"), py::arg("shapes"))
      .def("export_tensor", export_tensor<HostBuffer>, py::arg("offset"), py::arg("element"),
           py::arg("shape"), py::arg("is_versioned"));
  bind_devices(module);
  py::class_<DeviceBuffer, std::shared_ptr<DeviceBuffer>>(module, "DeviceBuffer")
      .def("__len__", [](const DeviceBuffer& buffer) { return buffer.memory->bytes(); })
      .def_property_readonly("device", [](const DeviceBuffer& buffer) { return buffer.device; })
      .def_property_readonly("address", [](const DeviceBuffer& buffer) { return buffer.memory->address(); })
      .def("export_bytes", export_bytes<DeviceBuffer>, py::arg("offsets"), py::arg("shapes"))
      .def("export_tensor", export_tensor<DeviceBuffer>, py::arg("offset"), py::arg("element"),
           py::arg("shape"), py::arg("is_versioned"))
      .def("copy_to_host", copy_to_host, py::arg("offset"), py::arg("into"));
  py::class_<AddressSpace>(module, "AddressSpace")
      .def(py::init([](std::shared_ptr<Device> device) { return AddressSpace{std::move(device)}; }),
           py::arg("device") = nullptr);
}

}  // namespace sllm
