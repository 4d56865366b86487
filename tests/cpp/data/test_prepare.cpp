#include <map>
#include <set>

#include "core/error.h"
#include "data/content_hash.h"
#include "data/glob.h"
#include "data/indexed_dataset.h"
#include "data/prepare.h"
#include "support/catch.h"
#include "support/scratch.h"
#include "support/tolerance.h"
#include "text/tokenizer.h"

using aspis::DataError;
using aspis::data::glob_files;
using aspis::data::IndexedDataset;
using aspis::data::name_matches;
using aspis::data::prepare;
using aspis::data::PrepareOptions;
using aspis::data::ShardInfo;
using aspis::test::message_of;
using aspis::test::Scratch;

namespace {

// The documents of a shard as bytes; checks that each is one sequence that ends in 256.
std::vector<std::string> documents_of(const std::string& prefix) {
  const IndexedDataset set(prefix);
  const auto tokenizer = aspis::text::make_tokenizer("bytes");
  std::vector<std::string> documents;
  CHECK(set.documents() == set.sequences());
  for (int64_t i = 0; i < set.sequences(); ++i) {
    const auto ids = set.read(i);
    CHECK(ids.back() == 256);
    documents.push_back(tokenizer->decode(ids));
  }
  return documents;
}

// Twenty files of different sizes in two folders, some equal, some empty.
void write_corpus(const Scratch& scratch) {
  for (int i = 0; i < 16; ++i) {
    scratch.write("in/a/f" + std::to_string(i) + ".txt",
                  std::string(static_cast<size_t>(20 + 7 * i), static_cast<char>('a' + i)));
  }
  scratch.write("in/b/copy1.txt", std::string(20, 'a'));  // of f0
  scratch.write("in/b/copy2.txt", std::string(27, 'b'));  // of f1
  scratch.write("in/b/empty.txt", "");
  scratch.write("in/b/bytes.txt", std::string("\xFF\xFE\0\x80 no UTF-8\r\n", 15));
  scratch.write("in/b/other.md", "not matched");
}

PrepareOptions options_for(const Scratch& scratch, const std::string& name = "out/set") {
  PrepareOptions options;
  options.globs = {scratch.path("in/**/*.txt")};
  options.prefix = scratch.path(name);
  options.validation_share = 0.2;
  return options;
}

}  // namespace

TEST_CASE("glob: one name") {
  CHECK(name_matches("*.py", "a.py"));
  CHECK(name_matches("*", ""));
  CHECK(name_matches("a*b*c", "aXbYbZc"));
  CHECK_FALSE(name_matches("a*b*c", "aXcYb"));
  CHECK(name_matches("f?.txt", "f1.txt"));
  CHECK_FALSE(name_matches("f?.txt", "f.txt"));
  CHECK(name_matches("[a-c]x", "bx"));
  CHECK_FALSE(name_matches("[!a-c]x", "bx"));
  CHECK(name_matches("[]x]", "]"));
  CHECK(name_matches("[a-]", "-"));
  CHECK(name_matches("\\*", "*"));
  CHECK_FALSE(name_matches("\\*", "x"));
  CHECK(message_of([] { name_matches("[ab", "a"); }) == "pattern \"[ab\": a [ without its ]");
}

TEST_CASE("glob: folders") {
  const Scratch scratch;
  for (const char* name : {"x/1.py", "x/y/2.py", "x/y/z/3.py", "x/.hidden/4.py", "x/.5.py",
                           "x/y/6.txt", "x/a[1].py"}) {
    scratch.write(name, "text");
  }
  std::filesystem::create_directory_symlink(scratch.path("x"), scratch.path("x/y/loop"));
  const auto found = [&](const std::string& pattern) {
    std::set<std::string> names;
    for (const std::string& path : glob_files(scratch.path(pattern))) {
      names.insert(path.substr(scratch.path("x/").size()));
    }
    return names;
  };
  using Names = std::set<std::string>;
  CHECK(found("x/*.py") == Names{"1.py", "a[1].py"});
  CHECK(found("x/**/*.py") == Names{"1.py", "a[1].py", "y/2.py", "y/z/3.py"});
  CHECK(found("x/**") == Names{"1.py", "a[1].py", "y/2.py", "y/6.txt", "y/z/3.py"});
  CHECK(found("x/*/*.py") == Names{"y/2.py"});
  CHECK(found("x/.*/*.py") == Names{".hidden/4.py"});
  CHECK(found("x/**/z/**/*.py") == Names{"y/z/3.py"});
  CHECK(found("x/a\\[1\\].py") == Names{"a[1].py"});
  CHECK(found("x/y/2.py") == Names{"y/2.py"});
  CHECK(message_of([&] { found("x/*.rs"); }) == scratch.path("x/*.rs") + ": no file matches");
  CHECK(message_of([&] { found("x/q.py"); }) == scratch.path("x/q.py") + ": no such file");
  CHECK(message_of([&] { found("x/y"); }) == scratch.path("x/y") + ": is a folder");
}

TEST_CASE("prepare: every file is in exactly one shard, bytes unchanged") {
  const Scratch scratch;
  write_corpus(scratch);
  int64_t calls = 0, writing = 0;
  PrepareOptions options = options_for(scratch);
  options.progress = [&](const aspis::data::PrepareProgress& progress) {
    ++calls;
    writing += progress.writing;
    CHECK(progress.files_done <= progress.files);
  };
  const ShardInfo info = prepare(options);
  CHECK(info.files == 20);
  CHECK(info.empty_files == 1);
  CHECK(info.duplicate_files == 2);
  CHECK(calls == 20 + 19);
  CHECK(writing == 19);

  std::multiset<std::string> wanted, got;
  for (const std::string& path : glob_files(options.globs[0])) {
    const std::string bytes = Scratch::read(path);
    if (!bytes.empty()) wanted.insert(bytes);
  }
  const auto train = documents_of(options.prefix + "_train");
  const auto validation = documents_of(options.prefix + "_validation");
  got.insert(train.begin(), train.end());
  got.insert(validation.begin(), validation.end());
  CHECK(got == wanted);
  // No content on both sides.
  for (const std::string& document : validation) {
    CHECK(std::count(train.begin(), train.end(), document) == 0);
  }

  const auto count = [](const std::vector<std::string>& documents) {
    int64_t bytes = 0;
    for (const std::string& document : documents) bytes += static_cast<int64_t>(document.size());
    return bytes;
  };
  CHECK(info.train.documents == static_cast<int64_t>(train.size()));
  CHECK(info.train.bytes == count(train));
  CHECK(info.train.tokens == count(train) + info.train.documents);
  CHECK(info.validation.bytes == count(validation));
  CHECK(info.validation.tokens == IndexedDataset(options.prefix + "_validation").tokens());
  CHECK(info.validation_files.size() == validation.size());
  const int64_t longest = std::max(info.train.longest_tokens, info.validation.longest_tokens);
  CHECK(longest == 20 + 7 * 15 + 1);
  // A fifth of the bytes was asked for; one document more than that at most.
  const auto total = static_cast<double>(count(train) + count(validation));
  CHECK(static_cast<double>(count(validation)) >= 0.2 * total);
  CHECK(static_cast<double>(count(validation)) <= 0.2 * total + 2 * 125);
}

TEST_CASE("prepare: the split depends on contents and seed only") {
  const Scratch scratch, moved;
  write_corpus(scratch);
  prepare(options_for(scratch, "one"));
  prepare(options_for(scratch, "two"));
  for (const char* end : {".json", "_train.bin", "_train.idx", "_validation.bin"}) {
    CHECK(Scratch::read(scratch.path("one") + end) == Scratch::read(scratch.path("two") + end));
  }
  // The same contents under other names, in another order.
  int number = 100;
  for (const std::string& path : glob_files(scratch.path("in/**/*.txt"))) {
    moved.write("in/" + std::to_string(--number) + ".txt", Scratch::read(path));
  }
  prepare(options_for(moved, "one"));
  const auto set_of = [](const std::string& prefix) {
    const auto documents = documents_of(prefix);
    return std::multiset<std::string>(documents.begin(), documents.end());
  };
  CHECK(set_of(moved.path("one_validation")) == set_of(scratch.path("one_validation")));
  // Seeds matter: over a few of them every document is held back at least once.
  std::set<std::string> held;
  for (int64_t seed = 0; seed < 40; ++seed) {
    PrepareOptions options = options_for(scratch, "seed" + std::to_string(seed));
    options.seed = seed;
    prepare(options);
    for (const std::string& document : documents_of(options.prefix + "_validation")) {
      held.insert(document);
    }
  }
  CHECK(held.size() == 17);
}

TEST_CASE("prepare: copies of one file stay together for every seed") {
  const Scratch scratch;
  for (int i = 0; i < 12; ++i) {
    scratch.write("in/" + std::to_string(i) + ".txt",
                  std::string(50, static_cast<char>('a' + i / 4)));
  }
  for (int64_t seed = 0; seed < 20; ++seed) {
    PrepareOptions options = options_for(scratch, "set" + std::to_string(seed));
    options.seed = seed;
    const ShardInfo info = prepare(options);
    CHECK(info.duplicate_files == 9);
    CHECK(info.validation.documents == 4);
    CHECK(info.train.documents == 8);
  }
}

TEST_CASE("prepare: small and lopsided corpora") {
  const Scratch scratch;
  scratch.write("in/big.txt", std::string(100000, 'x'));
  scratch.write("in/small.txt", "abc");
  for (int64_t seed = 0; seed < 8; ++seed) {
    PrepareOptions options = options_for(scratch);
    options.seed = seed;
    options.force = true;
    const ShardInfo info = prepare(options);
    CHECK(info.train.bytes == 100000);
    CHECK(info.validation.bytes == 3);
  }
  PrepareOptions all = options_for(scratch);
  all.validation_share = 0.0;
  all.force = true;
  const ShardInfo info = prepare(all);
  CHECK(info.train.documents == 2);
  CHECK(info.validation.documents == 0);
  CHECK_FALSE(std::filesystem::exists(all.prefix + "_validation.bin"));  // of the runs before
  CHECK(IndexedDataset(all.prefix + "_train").read(1) == std::vector<int64_t>{97, 98, 99, 256});
}

TEST_CASE("prepare: the description is read back and the report is for people") {
  const Scratch scratch;
  write_corpus(scratch);
  scratch.write("in/a/name_\xFF.txt", "a name that is no UTF-8");
  const PrepareOptions options = options_for(scratch);
  const ShardInfo info = prepare(options);
  for (const char* end : {"_train", "_validation", ""}) {
    const auto read = aspis::data::read_shard_info(options.prefix + end);
    REQUIRE(read);
    CHECK(read->tokenizer == "bytes");
    CHECK(read->vocab_size == 257);
    CHECK(read->end_of_document == 256);
    CHECK(read->validation_share == 0.2);
    CHECK(read->train.tokens == info.train.tokens);
    CHECK(read->validation_files.size() == info.validation_files.size());
  }
  CHECK_FALSE(aspis::data::read_shard_info(scratch.path("nothing_train")));
  const std::string text = report_text(info, "data/set");
  CHECK(text.find("21 files: 1 empty (skipped), 2 with the content of another one\n") == 0);
  CHECK(text.find("tokenizer bytes, vocabulary 257, end of document 256\n") != std::string::npos);
  CHECK(text.find("\ndata/set_validation: ") != std::string::npos);
}

TEST_CASE("prepare: messages, and nothing is lost") {
  const Scratch scratch;
  write_corpus(scratch);
  const auto message = [&](auto change) {
    PrepareOptions options = options_for(scratch);
    change(options);
    return message_of([&] { prepare(options); });
  };
  const std::string in = scratch.path("in/"), out = scratch.path("out/set");
  CHECK(message([&](auto& o) { o.globs = {in + "*.rs"}; }) == in + "*.rs: no file matches");
  CHECK(message([&](auto& o) { o.globs = {in + "missing.txt"}; }) ==
        in + "missing.txt: no such file");
  CHECK(message([&](auto& o) {
          o.globs.clear();
          o.files = {in + "missing.txt"};
        }) == in + "missing.txt: cannot be read: No such file or directory");
  CHECK(message([&](auto& o) {
          o.globs.clear();
          o.files = {in + "a"};
        }) == in + "a: is not a regular file");
  CHECK(message([&](auto& o) { o.globs.clear(); }) == "no input files named");
  CHECK(message([&](auto& o) { o.globs = {in + "b/empty.txt"}; }) ==
        "1 file found, all empty: nothing to prepare");
  CHECK(message([&](auto& o) { o.globs = {in + "a/f3.txt"}; }) ==
        "only one document: nothing can be held back for validation");
  CHECK(message([&](auto& o) { o.validation_share = 1.0; }) ==
        "validation share 1: must be at least 0 and below 1");
  CHECK(message([&](auto& o) { o.prefix = scratch.path("out/"); }).find("output prefix \"") == 0);
  CHECK(message([&](auto& o) { o.tokenizer = "words"; }) ==
        "tokenizer \"words\": not known (allowed: bytes)");
  CHECK_FALSE(std::filesystem::exists(out + "_train.bin"));

  prepare(options_for(scratch));
  const std::string before = Scratch::read(out + "_train.bin");
  CHECK(message([](auto& o) { o.seed = 5; }) == out + ".json: exists already");
  std::filesystem::remove(out + ".json");
  CHECK(message([](auto& o) { o.seed = 5; }) == out + "_train.bin: exists already");
  CHECK(Scratch::read(out + "_train.bin") == before);
  // A file that changes between reading and writing.
  CHECK(message([&](auto& o) {
          o.prefix = scratch.path("out/changed");
          o.progress = [&](const aspis::data::PrepareProgress& progress) {
            if (progress.files_done == progress.files && !progress.writing) {
              scratch.write("in/a/f0.txt", std::string(20, 'z'));
            }
          };
        }) == in + "a/f0.txt: changed while it was being read");
  CHECK_FALSE(std::filesystem::exists(scratch.path("out/changed_train.bin")));
}

TEST_CASE("prepare: a list of files, taken as they are") {
  const Scratch scratch;
  scratch.write("in/a[1].txt", "one");
  scratch.write("in/b.txt", "two");
  const std::string list = scratch.write(
      "list", scratch.path("in/a[1].txt") + "\r\n\n" + scratch.path("in/b.txt") + "\n");
  PrepareOptions options;
  options.files = aspis::data::read_file_list(list);
  options.prefix = scratch.path("set");
  options.validation_share = 0.0;
  prepare(options);
  CHECK(documents_of(options.prefix + "_train") == std::vector<std::string>{"one", "two"});
  CHECK(message_of([&] { aspis::data::read_file_list(scratch.write("none", "\n\n")); }) ==
        scratch.path("none") + ": names no file");
}

TEST_CASE("prepare: real text, the project's own sources") {
  const Scratch scratch;
  PrepareOptions options;
  options.globs = {ASPIS_SOURCE_DIR "/csrc/**/*.h", ASPIS_SOURCE_DIR "/csrc/**/*.cpp"};
  options.prefix = scratch.path("sources");
  options.validation_share = 0.1;
  const ShardInfo info = prepare(options);
  CHECK(info.train.documents > 20);
  CHECK(info.validation.documents >= 1);
  const auto share = static_cast<double>(info.validation.bytes) /
                     static_cast<double>(info.train.bytes + info.validation.bytes);
  CHECK(share >= 0.1);
  CHECK(share < 0.2);
  IndexedDataset(options.prefix + "_train").check_vocabulary(257);
  std::multiset<std::string> validation;
  for (const std::string& file : info.validation_files) validation.insert(Scratch::read(file));
  const auto documents = documents_of(options.prefix + "_validation");
  CHECK(validation == std::multiset<std::string>(documents.begin(), documents.end()));
}

TEST_CASE("content hash: lengths and single bits matter") {
  using aspis::data::content_hash;
  std::set<uint64_t> seen;
  for (size_t length = 0; length < 40; ++length) {
    std::string bytes(length, '\0');
    seen.insert(content_hash(bytes));
    for (size_t bit = 0; bit < 8 * length; ++bit) {
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
      seen.insert(content_hash(bytes));
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    }
  }
  CHECK(seen.size() == 40 + 8 * (39 * 40 / 2));
}
