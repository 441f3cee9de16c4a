#include <nlohmann/json.hpp>

#include <set>

#include "breach/report.hpp"
#include "sample.hpp"

namespace cloister::breach {
namespace {

using Json = nlohmann::json;

const sample::FakeResolver kResolver;

std::vector<Json> parsed(const std::vector<std::string>& lines) {
    std::vector<Json> out;
    for (const auto& line : lines) out.push_back(Json::parse(line));
    return out;
}

Json row_of(const Row& row) {
    Summary s;
    s.header = sample::header();
    s.rows = {row};
    return Json::parse(json_summary(s, kResolver, {}).at(0));
}

TEST(JsonReport, Golden) {
    const auto s = sample::summary();
    std::string text = json_header(s.header) + "\n";
    auto watch = s.header;
    watch.command = "watch";
    watch.gap_threshold_ns = 1'000;
    watch.blind = {{"irqs", "tracefs is not mounted", ""}};
    text += json_header(watch) + "\n";
    for (const auto& b : {sample::breach(), sample::fault()}) text += json_breach(s.header, b, kResolver) + "\n";
    const std::vector<Budget::Violation> violations{{"tick<=10", "250", {0}},
                                                    {"total<=1%", "not known: nothing measured the time lost", {}}};
    for (const auto& line : json_summary(s, kResolver, violations)) text += line + "\n";
    Summary watched;
    watched.header = watch;
    watched.balance = sample::watch_balance();
    for (const auto& line : json_summary(watched, kResolver, {})) text += line + "\n";
    sample::expect_golden("report.jsonl", text);
}

TEST(JsonReport, EveryLineIsOneVersionedObject) {
    const auto s = sample::summary();
    auto all = json_summary(s, kResolver, {{"tick<=10", "250", {0}}});
    all.push_back(json_header(s.header));
    all.push_back(json_breach(s.header, sample::breach(), kResolver));
    std::set<std::string> types;
    for (const auto& line : all) {
        EXPECT_EQ(line.find('\n'), std::string::npos);
        const auto json = Json::parse(line);
        EXPECT_EQ(json.at("v"), 1);
        types.insert(json.at("type"));
        EXPECT_EQ(line.rfind("{\"type\":", 0), 0U) << "readers tell lines apart by how they begin: " << line;
    }
    EXPECT_EQ(types, (std::set<std::string>{"header", "breach", "row", "thread", "notice", "violation", "balance"}));
}

TEST(JsonReport, RowsKeepTheirOrderAndNumbers) {
    const auto s = sample::summary();
    const auto all = parsed(json_summary(s, kResolver, {}));
    ASSERT_GE(all.size(), s.rows.size());
    for (std::size_t i = 0; i < s.rows.size(); ++i) {
        EXPECT_EQ(all[i].at("type"), "row");
        EXPECT_EQ(all[i].at("cause"), name(s.rows[i].cause));
        EXPECT_EQ(all[i].at("count"), s.rows[i].count);
        EXPECT_EQ(all[i].at("depth"), s.rows[i].depth);
        EXPECT_FALSE(all[i].at("fix").get<std::string>().empty());
    }
    EXPECT_EQ(all.back().at("type"), "balance");
}

TEST(JsonReport, NumbersOf64BitsStayExact) {
    auto r = sample::row(Cause::syscall, "write", 18'446'744'073'709'551'615U, 9'007'199'254'740'993U,
                         9'007'199'254'740'993U);
    const auto json = row_of(r);
    EXPECT_EQ(json.at("count").get<std::uint64_t>(), r.count);
    EXPECT_EQ(json.at("total_ns").get<std::uint64_t>(), r.total_ns);
}

TEST(JsonReport, WhatIsNotKnownIsNull) {
    auto open = sample::row(Cause::syscall, "exit_group", 2, 0, 0);
    open.end_unseen = 2;
    EXPECT_TRUE(row_of(open).at("total_ns").is_null());
    auto counted = sample::row(Cause::interrupt, "HYP", 3, 0, 0);
    counted.known = Known::counted;
    counted.first_ns = counted.last_ns = 0;
    EXPECT_TRUE(row_of(counted).at("total_ns").is_null());
    EXPECT_TRUE(row_of(counted).at("first_ns").is_null());
    auto zero = sample::row(Cause::migrated, "1 -> 0", 1, 0, 0);
    EXPECT_EQ(row_of(zero).at("total_ns"), 0);

    auto b = sample::breach();
    b.end_seen = false;
    b.who.reset();
    b.cpu = -1;
    const auto json = Json::parse(json_breach(sample::header(), b, kResolver));
    for (const char* key : {"duration_ns", "own_ns", "sender", "cpu", "pc", "address"})
        EXPECT_TRUE(json.at(key).is_null()) << key;

    Summary s;
    s.balance.watched_ns = 5;
    const auto balance = parsed(json_summary(s, kResolver, {})).back();
    for (const char* key : {"lost_ns", "explained_ns", "unexplained_ns"}) EXPECT_TRUE(balance.at(key).is_null()) << key;
    s.balance.lost_ns = 0;
    EXPECT_EQ(parsed(json_summary(s, kResolver, {})).back().at("lost_ns"), 0) << "zero is known";
}

TEST(JsonReport, DepartureAndChildren) {
    const auto b = sample::breach();
    const auto json = Json::parse(json_breach(sample::header(), b, kResolver));
    EXPECT_EQ(json.at("t_ns"), b.start_ns - sample::kBegin);
    EXPECT_EQ(json.at("duration_ns"), b.departure_end_ns - b.start_ns);
    EXPECT_EQ(json.at("own_ns"), b.end_ns - b.start_ns);
    ASSERT_EQ(json.at("children").size(), 2U);
    EXPECT_EQ(json["children"][0].at("duration_ns"), b.children[0].duration_ns());
    EXPECT_TRUE(json["children"][1].at("duration_ns").is_null());
    EXPECT_FALSE(json["children"][0].contains("type")) << "only whole lines are counted as breaches";
    EXPECT_EQ(json["sender"].at("comm"), "dataplane");
    const auto& stack = json["sender"].at("stack");
    ASSERT_EQ(stack.size(), 6U);
    EXPECT_EQ(stack[0].at("kernel"), true) << "innermost first";
    EXPECT_EQ(stack[3].at("file"), "dataplane.cc");
    EXPECT_EQ(stack[3].at("line"), 88);
    EXPECT_TRUE(stack[0].at("line").is_null());
}

TEST(JsonReport, TimesBeforeTheBeginAreNegative) {
    auto b = sample::fault();
    b.start_ns = sample::kBegin - 5;
    EXPECT_EQ(Json::parse(json_breach(sample::header(), b, kResolver)).at("t_ns"), -5);
}

TEST(JsonReport, AddressesAreText) {
    const auto json = Json::parse(json_breach(sample::header(), sample::fault(), kResolver));
    EXPECT_EQ(json.at("address"), "0x7fffdeadb000");
    EXPECT_EQ(json.at("pc"), "0x4011d6");
    ASSERT_EQ(json.at("stack").size(), 1U) << "without a stack, the program counter is looked up";
    EXPECT_EQ(json["stack"][0].at("function"), "first_touch");
    auto null = sample::fault();
    null.address = 0;
    EXPECT_EQ(Json::parse(json_breach(sample::header(), null, kResolver)).at("address"), "0x0")
        << "a null pointer is an address";
}

TEST(JsonReport, NamesThatAreNotUtf8AreReplaced) {
    auto b = sample::breach();
    b.who->comm = "a\xff\xfe\"\n";
    b.detail = std::string("\xc3", 1);
    const auto json = Json::parse(json_breach(sample::header(), b, kResolver));
    EXPECT_EQ(json["sender"].at("comm"), "a\xef\xbf\xbd\xef\xbf\xbd\"\n");
    auto h = sample::header();
    h.target = "\x80";
    EXPECT_EQ(Json::parse(json_header(h)).at("target"), "\xef\xbf\xbd");
}

TEST(JsonReport, SitesMostFrequentFirst) {
    auto r = sample::row(Cause::syscall, "write", 30, 1'000, 1'000);
    r.sites[1] = {10, sample::stack(sample::kDeepLibc), 0, 1};
    r.sites[2] = {20, nullptr, 0x4011d6, 1};
    const auto sites = row_of(r).at("sites");
    ASSERT_EQ(sites.size(), 2U);
    EXPECT_EQ(sites[0].at("count"), 20);
    EXPECT_EQ(sites[0].at("pc"), "0x4011d6");
    EXPECT_EQ(sites[0].at("stack")[0].at("function"), "first_touch");
    EXPECT_TRUE(sites[1].at("pc").is_null());
}

}  // namespace
}  // namespace cloister::breach
