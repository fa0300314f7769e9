#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/error.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace sllm {

std::span<const std::byte> bytes_of(const py::buffer_info& source) {
  if (source.ndim != 1 || (source.size != 0 && source.strides[0] != source.itemsize)) {
    throw Error(ErrorCode::kInvalid, "expected a contiguous one-dimensional buffer");
  }
  return {static_cast<const std::byte*>(source.ptr), static_cast<std::size_t>(source.size * source.itemsize)};
}

namespace {

std::uint32_t crc32c_of_buffer(const py::buffer& buffer, std::uint32_t previous) {
  const py::buffer_info view = buffer.request();
  const auto bytes = bytes_of(view);
  const py::gil_scoped_release unlocked;
  return crc32c(bytes, previous);
}

std::vector<std::string> error_codes() {
  std::vector<std::string> names;
  for (const ErrorCode code : kErrorCodes) names.emplace_back(name_of(code));
  return names;
}

// The border to Python: sllm_store.errors holds the class of each code.
void raise_as_python(std::exception_ptr exception) {
  try {
    if (exception) std::rethrow_exception(exception);
  } catch (const Error& error) {
    const py::object type =
        py::module_::import("sllm_store.errors").attr("class_of")(std::string(name_of(error.code())));
    PyErr_SetString(type.ptr(), error.what());
  }
}

}  // namespace

void bind_base(py::module_& module) {
  py::register_exception_translator(raise_as_python);
  module.def("crc32c", crc32c_of_buffer, py::arg("buffer"), py::arg("previous") = 0);
  module.def("crc32c_combine", crc32c_combine, py::arg("first"), py::arg("second"), py::arg("second_bytes"));
  module.def("crc32c_implementation", [] { return std::string(crc32c_implementation()); });
  module.def("error_codes", error_codes);
}

}  // namespace sllm
