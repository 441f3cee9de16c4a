#include <gtest/gtest.h>

#include "unwind/demangle.hpp"

namespace cloister::unwind {
namespace {

TEST(StripSignature, TakesParametersAndReturnTypeAway) {
    EXPECT_EQ(strip_signature("ring::push(unsigned long, char const*)"), "ring::push");
    EXPECT_EQ(strip_signature("main"), "main");
    EXPECT_EQ(strip_signature("ring::Queue<int>::size() const"), "ring::Queue<int>::size");
    EXPECT_EQ(strip_signature("ring::Queue<int>::take() &&"), "ring::Queue<int>::take");
    EXPECT_EQ(strip_signature("void ns::f<int>(int)"), "ns::f<int>");
    EXPECT_EQ(strip_signature("std::vector<int, std::allocator<int> > const& ns::f<int>(int)"), "ns::f<int>");
    EXPECT_EQ(strip_signature("f(int) [clone .constprop.0]"), "f");
    EXPECT_EQ(strip_signature("f[abi:cxx11](int)"), "f[abi:cxx11]");
    EXPECT_EQ(strip_signature("non-virtual thunk to A::f()"), "A::f");
    EXPECT_EQ(strip_signature("decltype (x.y()) ns::f<int>(int)"), "ns::f<int>");
}

TEST(StripSignature, KeepsOperators) {
    EXPECT_EQ(strip_signature("A::operator()(int) const"), "A::operator()");
    EXPECT_EQ(strip_signature("void A::operator()<int>(int) const"), "A::operator()<int>");
    EXPECT_EQ(strip_signature("A::operator<(A const&) const"), "A::operator<");
    EXPECT_EQ(strip_signature("bool operator< <int>(A<int> const&, A<int> const&)"), "operator< <int>");
    EXPECT_EQ(strip_signature("std::ostream& std::operator<< <char>(std::ostream&, char)"), "std::operator<< <char>");
    EXPECT_EQ(strip_signature("A::operator->() const"), "A::operator->");
    EXPECT_EQ(strip_signature("A::operator<=>(A const&) const"), "A::operator<=>");
    EXPECT_EQ(strip_signature("A::operator[](unsigned long)"), "A::operator[]");
    EXPECT_EQ(strip_signature("operator new[](unsigned long)"), "operator new[]");
    EXPECT_EQ(strip_signature("A::operator unsigned long() const"), "A::operator unsigned long");
    EXPECT_EQ(strip_signature("A::operator std::vector<int, std::allocator<int> >() const"),
              "A::operator std::vector<int, std::allocator<int> >");
    EXPECT_EQ(strip_signature("operator\"\" _km(long double)"), "operator\"\" _km");
    EXPECT_EQ(strip_signature("my_operator(int)"), "my_operator");
    EXPECT_EQ(strip_signature("operators::run(int)"), "operators::run");
}

TEST(StripSignature, KeepsWhatAFunctionIsInside) {
    EXPECT_EQ(strip_signature("(anonymous namespace)::f(int)"), "(anonymous namespace)::f");
    EXPECT_EQ(strip_signature("ns::(anonymous namespace)::A::f(int)"), "ns::(anonymous namespace)::A::f");
    EXPECT_EQ(strip_signature("main::{lambda(int)#1}::operator()(int) const"), "main::{lambda(int)#1}::operator()");
    EXPECT_EQ(strip_signature("f(int)::{lambda()#1}::operator()() const"), "f(int)::{lambda()#1}::operator()");
    EXPECT_EQ(strip_signature("A::f(int) const::{lambda()#2}::operator()() const"),
              "A::f(int) const::{lambda()#2}::operator()");
    EXPECT_EQ(strip_signature("std::function<void (int)>::operator()(int) const"),
              "std::function<void (int)>::operator()");
    EXPECT_EQ(strip_signature("void f<(void (*)(int))0>()"), "f<(void (*)(int))0>");
    EXPECT_EQ(strip_signature("void f<&A::operator<>(int)"), "f<&A::operator<>");
}

TEST(StripSignature, SurvivesNonsense) {
    for (const char open : {'(', '<', '{', '['}) {
        const std::string deep = "f" + std::string(100'000, open);
        EXPECT_FALSE(strip_signature(deep).empty());
        EXPECT_FALSE(strip_signature("operator" + deep).empty());
    }
    for (const char* text : {"", "(", ")", "operator", "operator(", "a b", " ", "f(", "f)", "f<", "::"})
        EXPECT_LE(strip_signature(text).size(), std::string_view(text).size());
}

TEST(DisplayName, OfSymbols) {
    EXPECT_EQ(display_name("_ZN4ring4pushEm"), "ring::push");
    EXPECT_EQ(display_name("_ZN12_GLOBAL__N_110rotate_logEPvm"), "rotate_log");
    EXPECT_EQ(display_name("_ZN4ring4pushEm.constprop.0"), "ring::push");
    EXPECT_EQ(display_name("munmap"), "munmap");
    EXPECT_EQ(display_name("memcpy@@GLIBC_2.14"), "memcpy");
    EXPECT_EQ(display_name("msort_with_tmp.part.0"), "msort_with_tmp");
    EXPECT_EQ(display_name("main.cold"), "main");
    EXPECT_EQ(display_name("_Znot_mangled_at_all"), "_Znot_mangled_at_all");
    EXPECT_EQ(display_name(""), "");
}

}  // namespace
}  // namespace cloister::unwind
