// Boost.Beast's parser, for parser.cc alone: it is slow to compile.
#pragma once

// clang-format off
#include "http/asio.h"
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
// clang-format on
