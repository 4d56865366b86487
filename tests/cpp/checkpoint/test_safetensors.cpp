#include "checkpoint/safetensors.h"

#include <ATen/ATen.h>

#include <cstring>

#include "checkpoint/scratch.h"
#include "core/error.h"
#include "support/catch.h"
#include "support/tolerance.h"

using aspis::DataError;
using aspis::checkpoint::Metadata;
using aspis::checkpoint::NamedTensors;
using aspis::checkpoint::SafetensorsFile;
using aspis::checkpoint::write_safetensors;
using aspis::test::message_of;
using aspis::test::read_bytes;
using aspis::test::Scratch;
using aspis::test::write_bytes;
using Catch::Matchers::Contains;
namespace fs = std::filesystem;

namespace {

// Every dtype of the format that Torch has.
const std::vector<at::ScalarType> kAllDtypes{
    at::kBool,   at::kByte,          at::kChar,         at::kFloat8_e5m2,
    at::kShort,  at::kFloat8_e4m3fn, at::kUInt16,       at::kFloat8_e8m0fnu,
    at::kHalf,   at::kBFloat16,      at::kInt,          at::kFloat8_e4m3fnuz,
    at::kUInt32, at::kFloat,         at::kComplexFloat, at::kFloat8_e5m2fnuz,
    at::kDouble, at::kLong,          at::kUInt64};

// Bytes of any dtype, compared as bytes.
at::Tensor as_bytes(const at::Tensor& tensor) {
  at::Tensor out = at::empty({static_cast<int64_t>(tensor.nbytes())}, at::kByte);
  const at::Tensor dense = tensor.contiguous();
  if (tensor.nbytes() > 0) {
    std::memcpy(out.mutable_data_ptr(), dense.const_data_ptr(), tensor.nbytes());
  }
  return out;
}

at::Tensor counting(at::ScalarType dtype, at::IntArrayRef sizes) {
  at::Tensor out = at::empty(sizes, dtype);
  auto* bytes = static_cast<uint8_t*>(out.mutable_data_ptr());
  for (size_t i = 0; i < out.nbytes(); ++i) {
    bytes[i] = static_cast<uint8_t>(dtype == at::kBool ? i % 2 : 7 * i + 3);
  }
  return out;
}

std::string with_header(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

// The message with which a file of these bytes is refused; anything but DataError fails.
std::string refusal(const std::string& bytes) {
  Scratch scratch;
  const fs::path file = scratch / "a.safetensors";
  write_bytes(file, bytes);
  try {
    SafetensorsFile{file};
  } catch (const DataError& error) {
    const std::string message = error.what();
    CHECK_THAT(message, Contains("a.safetensors: "));
    return message;
  }
  FAIL_CHECK("was accepted");
  return "";
}

std::string refused_header(const std::string& header, const std::string& data = "") {
  return refusal(with_header(header, data));
}

}  // namespace

TEST_CASE("safetensors: every dtype survives, with zero-size tensors and scalars") {
  Scratch scratch;
  NamedTensors tensors;
  for (const auto dtype : kAllDtypes) {
    const std::string name = c10::toString(dtype);
    tensors[name + ".matrix"] = counting(dtype, {3, 5});
    tensors[name + ".scalar"] = counting(dtype, {});
    tensors[name + ".empty"] = counting(dtype, {4, 0, 2});
  }
  tensors["a \"quoted\" näme/ü"] = at::arange(3);
  const Metadata metadata{{"format", "pt"}, {"step", "100"}};
  write_safetensors(scratch / "a.safetensors", tensors, metadata);
  CHECK(std::distance(fs::directory_iterator((scratch / "")), fs::directory_iterator()) == 1);

  const SafetensorsFile file(scratch / "a.safetensors");
  CHECK(file.metadata() == metadata);
  const NamedTensors back = file.tensors();
  REQUIRE(back.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    REQUIRE(back.contains(name));
    CHECK(back.at(name).scalar_type() == tensor.scalar_type());
    CHECK(back.at(name).sizes() == tensor.sizes());
    aspis::test::check_bitwise(name, as_bytes(back.at(name)), as_bytes(tensor));
  }
}

TEST_CASE("safetensors: the data is sorted by alignment, then name, and aligned") {
  Scratch scratch;
  write_safetensors(scratch / "a.safetensors", {{"b", counting(at::kFloat, {3})},
                                                {"a", counting(at::kByte, {1})},
                                                {"c", counting(at::kDouble, {1})},
                                                {"z", counting(at::kFloat, {1})}});
  const SafetensorsFile file(scratch / "a.safetensors");
  CHECK(file.entries().at("c").begin == 0);
  CHECK(file.entries().at("b").begin == 8);
  CHECK(file.entries().at("z").begin == 20);
  CHECK(file.entries().at("a").begin == 24);
  const std::string bytes = read_bytes(scratch / "a.safetensors");
  CHECK(bytes.size() % 8 == 25 % 8);
  CHECK(bytes[8] == '{');
}

TEST_CASE("safetensors: views are written dense, each name on its own") {
  Scratch scratch;
  const at::Tensor base = at::arange(12, at::kFloat).view({3, 4});
  write_safetensors(scratch / "a.safetensors",
                    {{"whole", base},
                     {"transposed", base.t()},
                     {"column", base.select(1, 2)},
                     {"conj", at::conj(at::complex(base, base))},
                     {"graph", base.clone().set_requires_grad(true) * 2}});
  const SafetensorsFile file(scratch / "a.safetensors");
  aspis::test::check_bitwise("transposed", file.tensor("transposed"), base.t());
  aspis::test::check_bitwise("column", file.tensor("column"), base.select(1, 2));
  aspis::test::check_bitwise("conj", at::view_as_real(file.tensor("conj")),
                             at::stack({base, -base}, -1));
  aspis::test::check_bitwise("graph", file.tensor("graph"), base * 2);
  CHECK_THAT(message_of([&] { file.tensor("wohle"); }), Contains("there is no tensor \"wohle\""));
}

TEST_CASE("safetensors: writing to a tensor does not reach the file, and tensors outlive it") {
  Scratch scratch;
  const fs::path path = scratch / "a.safetensors";
  write_safetensors(path, {{"a", at::ones({1000})}});
  const std::string before = read_bytes(path);
  at::Tensor tensor;
  {
    const SafetensorsFile file(path);
    tensor = file.tensor("a");
  }
  tensor.mul_(3);
  CHECK(tensor.sum().item<double>() == 3000.0);
  CHECK(read_bytes(path) == before);
  // A file that is mapped may be replaced.
  write_safetensors(path, {{"a", at::zeros({2})}});
  CHECK(tensor.sum().item<double>() == 3000.0);
  CHECK(SafetensorsFile(path).tensor("a").numel() == 2);
}

TEST_CASE("safetensors: files of other writers are read") {
  Scratch scratch;
  const auto read = [&](const std::string& bytes) {
    write_bytes(scratch / "a.safetensors", bytes);
    return SafetensorsFile(scratch / "a.safetensors").tensors();
  };
  CHECK(read(with_header("{}")).empty());
  CHECK(read(with_header("  \n{\"__metadata__\":{}}  \n")).empty());
  // Not aligned: the data of the float begins at an odd byte.
  const float values[2] = {1.5f, -2.0f};
  const std::string data = "x" + std::string(reinterpret_cast<const char*>(values), 8);
  for (const char* pad : {"", " ", "  ", "   "}) {
    const auto tensors =
        read(with_header(std::string(R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},)") +
                             R"("a":{"shape":[1],"data_offsets":[0,1],"dtype":"U8"}})" + pad,
                         data));
    aspis::test::check_bitwise("b", tensors.at("b"), at::tensor({1.5f, -2.0f}));
    CHECK(tensors.at("a").item<int64_t>() == 'x');
  }
  // Zero-size tensors may stand anywhere between the others.
  const auto tensors = read(with_header(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                        R"("e":{"dtype":"I64","shape":[0,7],"data_offsets":[0,0]},)"
                                        R"("f":{"dtype":"I64","shape":[0],"data_offsets":[1,1]}})",
                                        "x"));
  CHECK(tensors.at("e").sizes() == at::IntArrayRef({0, 7}));
}

TEST_CASE("safetensors: damaged lengths and JSON are refused") {
  CHECK_THAT(refusal(""), Contains("0 bytes long"));
  CHECK_THAT(refusal("1234567"), Contains("7 bytes long"));
  CHECK_THAT(refusal(std::string(8, '\0')), Contains("does not begin with '{'"));
  CHECK_THAT(refusal(std::string(8, '\xff') + "{}"), Contains("18446744073709551615 bytes long"));
  CHECK_THAT(refusal(std::string("\x03\0\0\0\0\0\0\0{}", 10)),
             Contains("3 bytes long, but the file has 10"));
  CHECK_THAT(refusal(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)), Contains("at most 100000000"));
  CHECK_THAT(refused_header("   "), Contains("does not begin with '{'"));
  CHECK_THAT(refused_header("[]"), Contains("does not begin with '{'"));
  CHECK_THAT(refused_header("\xef\xbb\xbf{}"), Contains("does not begin with '{'"));
  CHECK_THAT(refused_header("{"), Contains("not valid JSON at byte"));
  CHECK_THAT(refused_header("{}{}"), Contains("not valid JSON"));
  CHECK_THAT(refused_header("{} // note"), Contains("not valid JSON"));
  CHECK_THAT(refused_header("{\"__metadata__\":{},}"), Contains("not valid JSON"));
  CHECK_THAT(refused_header(std::string("{}\0{", 4)), Contains("zero byte"));
  CHECK_THAT(refused_header("{\"\xff\":{}}"), Contains("not valid JSON"));
  CHECK_THAT(refused_header("{\"a\":" + std::string(100000, '[')), Contains("must be an object"));
}

TEST_CASE("safetensors: wrong entries are refused by tensor") {
  const auto entry = [](const std::string& body) { return refused_header("{\"w\":" + body + "}"); };
  CHECK_THAT(entry("3"), Contains("tensor \"w\" must be an object, got 3"));
  CHECK_THAT(entry("null"), Contains("tensor \"w\" must be an object, got null"));
  CHECK_THAT(entry("{}"), Contains("tensor \"w\" has no dtype"));
  CHECK_THAT(entry(R"({"dtype":"F32","shape":[]})"), Contains("has no data_offsets"));
  CHECK_THAT(entry(R"({"dtype":"F32","data_offsets":[0,4]})"), Contains("has no shape"));
  CHECK_THAT(entry(R"({"dtype":"F31","shape":[],"data_offsets":[0,4]})"),
             Contains("tensor \"w\": unknown dtype \"F31\"") && Contains("BF16"));
  CHECK_THAT(entry(R"({"dtype":"F4","shape":[2],"data_offsets":[0,1]})"),
             Contains("dtype F4 packs several values"));
  CHECK_THAT(entry(R"({"dtype":7,"shape":[],"data_offsets":[0,4]})"),
             Contains("dtype must be a string, got 7"));
  CHECK_THAT(entry(R"({"dtype":["F32"],"shape":[],"data_offsets":[0,4]})"), Contains("an array"));
  CHECK_THAT(entry(R"({"dtype":"F32","shape":2,"data_offsets":[0,4]})"),
             Contains("shape must be an array of numbers, got 2"));
  for (const char* number :
       {"-1", "1.0", "1e0", "\"1\"", "true", "null", "[1]", "{}", "18446744073709551616"}) {
    CHECK_THAT(entry(std::string(R"({"dtype":"U8","shape":[)") + number + "]}"), Contains("shape"));
    CHECK_THAT(entry(std::string(R"({"dtype":"U8","data_offsets":[0,)") + number + "]}"),
               Contains("data_offsets") || Contains("has no shape"));
  }
  CHECK_THAT(entry(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]})"),
             Contains("is too large"));
  CHECK_THAT(entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"),
             Contains("too large for any file"));
  CHECK_THAT(entry(R"({"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})"),
             Contains("too large for any file"));
  CHECK_THAT(entry(R"({"dtype":"U8","shape":[1],"data_offsets":[0]})"), Contains("got 1"));
  CHECK_THAT(entry(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})"), Contains("got more"));
  CHECK_THAT(entry(R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})"), Contains("[1, 0]"));
  CHECK_THAT(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"),
             Contains("make 8 bytes, but data_offsets are [0, 4]"));
  CHECK_THAT(entry(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]})"),
             Contains("unknown key \"strides\""));
  CHECK_THAT(entry(R"({"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]})"),
             Contains("tensor \"w\": \"dtype\" stands twice"));
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  CHECK_THAT(entry(R"({"dtype":"U8","shape":[)" + ones + R"(],"data_offsets":[0,1]})"),
             Contains("more than 64 dimensions"));
  CHECK_THAT(refused_header("{\"" + std::string(5000, 'n') + "\":{}}"),
             Contains("longer than 4096"));
  CHECK_THAT(refused_header(R"({"__metadata__":[]})"), Contains("__metadata__ must be an object"));
  CHECK_THAT(refused_header(R"({"__metadata__":{"a":1}})"), Contains("must be a string, got 1"));
  CHECK_THAT(refused_header(R"({"__metadata__":{"a":"1","a":"1"}})"),
             Contains("__metadata__: \"a\" stands twice"));
}

TEST_CASE("safetensors: data that overlaps, has holes or does not end with the file is refused") {
  const std::string a = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  const auto b = [](const std::string& offsets) {
    return R"("b":{"dtype":"U8","shape":[2],"data_offsets":)" + offsets + "}";
  };
  CHECK_THAT(refused_header("{" + a + "," + a + "}", "xx"), Contains("\"a\" stands twice"));
  CHECK_THAT(refused_header("{" + a + "," + b("[0,2]") + "}", "xx"), Contains("they overlap"));
  CHECK_THAT(refused_header("{" + a + "," + b("[1,3]") + "}", "xxx"),
             Contains("tensor \"b\" begins at byte 1") && Contains("they overlap"));
  CHECK_THAT(refused_header("{" + a + "," + b("[3,5]") + "}", "xxxxx"), Contains("(a hole)"));
  CHECK_THAT(refused_header("{" + b("[2,4]") + "}", "xxxx"), Contains("(a hole)"));
  CHECK_THAT(refused_header("{" + a + "}", "x"),
             Contains("the tensors fill 2 bytes, but the file has 1"));
  CHECK_THAT(refused_header("{" + a + "}", "xxx"),
             Contains("the tensors fill 2 bytes, but the file has 3"));
  CHECK_THAT(refused_header("{}", "x"), Contains("fill 0 bytes, but the file has 1"));
}

TEST_CASE("safetensors: cut anywhere, the file is refused; with any bit flipped, nothing breaks") {
  Scratch scratch;
  const fs::path path = scratch / "a.safetensors";
  write_safetensors(path,
                    {{"layers.0.weight", counting(at::kBFloat16, {2, 3})},
                     {"mask", counting(at::kBool, {5})},
                     {"bias", counting(at::kFloat, {3})}},
                    {{"format", "pt"}});
  const std::string whole = read_bytes(path);
  for (size_t length = 0; length < whole.size(); ++length) {
    write_bytes(path, whole.substr(0, length));
    CHECK_THROWS_AS(SafetensorsFile(path), DataError);
  }
  write_bytes(path, whole + "x");
  CHECK_THROWS_AS(SafetensorsFile(path), DataError);

  size_t refused = 0, read = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      write_bytes(path, damaged);
      try {
        for (const auto& [name, tensor] : SafetensorsFile(path).tensors()) {
          (void)as_bytes(tensor);  // reads all of it
        }
        ++read;  // a letter of a name, or a value
      } catch (const DataError&) {
        ++refused;
      }
    }
  }
  CHECK(refused + read == 8 * whole.size());
  CHECK(refused > read);
}

TEST_CASE("safetensors: a BOOL that is neither 0 nor 1 is refused") {
  Scratch scratch;
  write_bytes(scratch / "a.safetensors",
              with_header(R"({"m":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\1\2"));
  const SafetensorsFile file(scratch / "a.safetensors");
  CHECK_THAT(message_of([&] { file.tensor("m"); }), Contains("tensor \"m\": a BOOL is neither"));
}

TEST_CASE("safetensors: what cannot be opened or written is refused and leaves nothing") {
  Scratch scratch;
  CHECK_THAT(message_of([&] { SafetensorsFile{scratch / "none"}; }),
             Contains("none: cannot be opened: No such file"));
  CHECK_THAT(message_of([&] { SafetensorsFile{scratch / ""}; }), Contains("not a regular file"));
  const auto refused = [&](const NamedTensors& tensors, const Metadata& metadata = {}) {
    const fs::path file = scratch / "b.safetensors";
    const std::string message = message_of([&] { write_safetensors(file, tensors, metadata); });
    CHECK(fs::is_empty(scratch / ""));
    return message;
  };
  CHECK_THAT(refused({{"w", at::zeros({2}, at::kComplexDouble)}}),
             Contains("tensor \"w\": safetensors files have no dtype for ComplexDouble"));
  CHECK_THAT(refused({{"w", at::Tensor()}}), Contains("tensor \"w\" is undefined"));
  CHECK_THAT(refused({{"w", at::empty({2}, at::kMeta)}}), Contains("no dense data"));
  CHECK_THAT(refused({{"w", at::zeros({2, 2}).to_sparse()}}), Contains("no dense data"));
  CHECK_THAT(refused({{"__metadata__", at::zeros({2})}}), Contains("does not allow this name"));
  CHECK_THAT(refused({{"\xff", at::zeros({2})}}), Contains("is not UTF-8"));
  CHECK_THAT(refused({}, {{"a", "\xff"}}), Contains("is not UTF-8"));
  CHECK_THAT(message_of([&] { write_safetensors(scratch / "no/such/folder", {}); }),
             Contains("cannot be created: No such file"));
}

// Started by tests/python/test_safetensors.py with the two paths in the environment: copies IN to
// OUT through the reader and the writer.
TEST_CASE("safetensors: copy", "[.copy]") {
  const char* in = std::getenv("ASPIS_COPY_IN");
  const char* out = std::getenv("ASPIS_COPY_OUT");
  REQUIRE(in);
  REQUIRE(out);
  const SafetensorsFile file(in);
  write_safetensors(out, file.tensors(), file.metadata());
}
