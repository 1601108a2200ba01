"""The cases that hydra_reference.py puts to Hydra and OmegaConf."""

SCALARS = r"""
1|0|-0|+1|-1|007|00|0x10|0b1|1_000|1__0|1_|_1|10_0_0|123456789012345678901234567890|9007199254740993
1.|.5|0.5|-.5|+.5|1.0|1.10|1e3|1E3|1e-3|1e+3|1.e5|.5e3|1_0.2_5|1e1_0|1e|1e+|e3|1.2.3|0.1.|1e-400|12e4567|0.1e-5|1e16|1e15|123456789.123
inf|-inf|+inf|INF|Inf|infinity|.inf|nan|NaN|NAN|-nan|nano
true|True|TRUE|tRuE|false|FALSE|truee|true1|null|NULL|Null|none|None|yes|no|on|off|y|n
abc|a b c|a  b| a|a |abc-def|a_b|a.b|a/b|a:b|a@b|a?b|a%b|a*b|a|b|10%|1 2|true false|1a|a1|1-2|1/2|2020-01-01|12:30|C:/x|c:\foo|\n|\\|a\\b
a\,b|a\=b|a\[b\]|a\{b\}|a\(b\)|a\:b|a\ b|\ a|a\ |\a\b|\1|1\ |x\
$|$a|a$b|$$|a$|$a.b|${a}|${a.b}|${a}b|a${b}c|${a}${b}|${oc.env:X}|${oc.env:X,y}|${f:a,b}|${a:[1,2]}|${}|${a|\${a}|$\{a\}|${.a}|${..a}|${a[0]}
#|a#b|!|a!b|&|a&b|;|<|>|^|~|`|a`b|a=b|a==b|=|,|a,|,a|a,,b|(|)|a(b|a)b|[|]|a[b|a]b|{|}|a{b|a}b|-|--|+|.|..|/|\|%|*|?|:|::|a:|:a
http://host/a|http://host/a?b|s3://bucket/x|user@host|/a/b/c.json|../x|./x|~/x|a-b-c|-a|--flag|+a|++a|1,2|1,a,true|a,b c,d
""".strip("\n")

QUOTED = r"""
''¦""¦'a'¦"a"¦'a b'¦' a '¦'a,b'¦'a=b'¦'[1]'¦'{a:1}'¦'1'¦'true'¦'null'¦'#'¦'a#b'¦'é'¦'~'¦'`'¦'a"b'¦"a'b"
'a\'b'¦"a\"b"¦'a\\'¦'a\\b'¦'a\nb'¦'\\\''¦"\\"¦"a\\\"b"¦'\\'¦'a\b'¦'\'a\''¦"'a'"¦'"a"'
'${a}'¦'${a.${b}}'¦'a ${b} c'¦'\${a}'¦'$'¦'a¦a'¦"a¦'a'b¦b'a'¦'a' 'b'¦'a''b'¦'a',b¦'a','b'¦ 'a'¦'a',1
['a','b']¦['a' , "b"]¦[ 'a' ]¦{a:'b'}¦{a:'b,c'}¦[a'b]¦['a'b]
""".strip("\n")

CONTAINERS = r"""
[]¦[ ]¦[1]¦[ 1 ]¦[1,2]¦[1 , 2]¦[1, 2 ,3]¦[a b,c]¦[1,]¦[,1]¦[1,,2]¦[a:b]¦[a=b]¦[[]]¦[[1],[2,[3]]]¦[{}]¦[{a:1}]¦[null,true,1.5,x]¦[${a}]¦[a¦a]¦[1]]¦[[1]¦[1]x¦x[1]¦[1] [2]
[1],[2]¦[a,b],c¦[a\,b]¦[a\]]¦[http://x]¦[1_0,0x1]¦[.5,1.]¦[ a , b ]¦[*]¦[-1,+2]¦[inf,nan]
{}¦{ }¦{a:1}¦{a: 1}¦{ a : 1 }¦{a:1,b:2}¦{a:1,a:2}¦{a:b:c}¦{a:{b:1}}¦{a:[1,2]}¦{1:x}¦{1.5:x}¦{true:x}¦{null:x}¦{a.b:1}¦{a b:1}¦{a:}¦{:1}¦{a}¦{a:1,}¦{,}¦{a=1}¦{a:1¦a:1}¦{a:1}}¦{a:1}x
{a:1},{b:2}¦{a\:b:1}¦{a:b\,c}¦{a:${b}}¦{a-b:1}¦{a/b:1}¦{1:a,1:b}¦{1:a,1.0:b}¦{0:a,false:b}¦{a:null}¦{a:true,b:1.0}¦{inf:1}¦{010:1}
""".strip("\n")

FUNCTIONS = r"""
choice(a)¦choice(a,b)¦choice(1,2.0,true)¦choice()¦choice([1],[2])¦choice({a:1})¦choice (a,b)¦choice( a , b )¦choice(null)¦choice(a,null)¦choice('a',"b")¦choice(a b,c)¦choice(choice(a,b))¦Choice(a)¦choice(a
range(3)¦range(1,3)¦range(1,10,2)¦range(3,1,-1)¦range(0,1,0.25)¦range(1.5)¦range(0,3,1.0)¦range(a)¦range()¦range(1,2,3,4)¦range(start=1,stop=3)¦range(stop=3,start=1,step=2)¦range(1,stop=5)¦range(0.1,0.5,0.1)¦range(3,1)¦range(-3)¦range(true)¦range(0,10,3)¦range(10,0,-3)¦range(1,3,x)
interval(0,1)¦interval(1.5,2)¦interval(0)¦interval(a,b)¦interval(start=0,end=1)¦interval(-1,1)¦interval()
glob(*)¦glob(a*)¦glob([a*,b*])¦glob(*,exclude=b*)¦glob(*,exclude=[b,c])¦glob(include=*)¦glob(a,b)¦glob(1)¦glob()¦glob('[ab]*')
sort(3,1,2)¦sort(c,a,b)¦sort([3,1,2])¦sort(3,1,2,reverse=true)¦sort(choice(b,a))¦sort(range(3,0,-1))¦sort(range(1,5),reverse=true)¦sort()¦sort(a)¦sort(1,a)¦sort([b,a],reverse=true)¦sort(1.5,1)¦sort(true,0)¦sort(list=[2,1])¦sort(sweep=choice(2,1))¦sort(interval(0,1))¦sort(range(0,10,3),reverse=true)¦sort(B,a)¦sort([])¦sort(1,2,reverse=1)
shuffle(choice(a,b))¦shuffle(a,b)¦shuffle(range(3))¦shuffle(a)¦shuffle([a])¦shuffle(sweep=choice(a))¦shuffle(interval(0,1))¦shuffle()
tag(choice(a,b))¦tag(t,choice(a,b))¦tag(t1,t2,choice(a))¦tag(t,range(3))¦tag(t,interval(0,1))¦tag()¦tag(a)¦tag(1,choice(a))¦tag(t,sweep=choice(a))¦tag(t,a)¦tag(t,t,choice(a))
int(1)¦int(1.9)¦int(-1.9)¦int('1')¦int(a)¦int('1.5')¦int(true)¦int(null)¦int([1.5,2])¦int({a:1.5})¦int(1.5,2.5)¦int(choice(1.5,2))¦int(range(1.5,3.5))¦int(interval(1.2,3.4))¦int(inf)¦int(nan)¦int(1e3)¦int('1_0')¦int(007)¦int(' 1 ')¦int()¦int(value=2.5)¦int(1,value=2)¦int(glob(*))
float(1)¦float(1.5)¦float('1.5')¦float(a)¦float(true)¦float([1,2])¦float(1,2)¦float(range(3))¦float(range(1,10,2))¦float(null)¦float('inf')¦float('Infinity')¦float(1e3)¦float({a:1})¦float(interval(0,1))¦float('1_0')
str(1)¦str(1.5)¦str(true)¦str(a)¦str(null)¦str([1,true])¦str({a:1})¦str(1,2)¦str(1e-5)¦str(range(3))¦str(choice(1,2))¦str('1')¦str(interval(0,1))¦str(1e16)¦str([1,'a'])
bool(true)¦bool(1)¦bool(0)¦bool(a)¦bool('true')¦bool('yes')¦bool(0.0)¦bool(nan)¦bool(null)¦bool([0,1])¦bool(0,1)¦bool(TRUE)¦bool('FALSE')¦bool(range(3))¦bool({a:0})
f(x)¦f()¦f (x)¦[f(x)]¦[int(1.5)]¦{a:int(1.5)}¦int(float('1.5'))¦str(int(1.5))¦int(1)x¦int(1) ¦x int(1)¦choice(a)b¦int(a=1)¦choice(x=1)¦sort(reverse=true,1)¦int(1),int(2)¦choice(int(1.5),2)¦int(1 2)¦range(int(1.5),5)¦[1,int(2.5)]
""".strip("\n")

# What Hydra refuses and neva takes (docs/hydra-differences.md).
TAKEN = r"""
é¦日本 語¦naïve,ü¦${a.${b}}¦x${a.${b}}y¦${f:{x:1}}¦${f:'}'}¦{"a":1}¦{"a": {"b": [1, null]}}¦{'a':1}¦'a' ¦"a"  ¦[1] ¦{a:1} ¦{a:${b.${c}}}
""".strip("\n")

KEYS = r"""
a=1¦a.b=1¦a.b.c=1¦a.0=1¦a.0.b=1¦0.a=1¦0=1¦1a=1¦a.1a=1¦a.01=1¦a.1_0=1¦a..b=1¦.a=1¦a.=1¦a-b=1¦a_b=1¦_a=1¦-a=1¦$a=1¦$a.b=1¦a$b=1¦a/b=1¦a/b/c=1¦/a=1¦a/=1¦a//b=1¦a.b/c=1¦a/b.c=1¦$a/b=1¦a[0]=1
a@b=1¦a@b.c=1¦a@=1¦@b=1¦a@_global_=1¦a@b:c=1¦a@b@c=1¦a/b@c=1¦a/b@c.d=1¦a.b@c=1¦a@b/c=1¦a@0.b=1¦a@:b=1
+a=1¦++a=1¦+++a=1¦~a¦~a=1¦~a=¦~a.b¦~a/b¦~a@b¦~a@b=c¦+a.b=1¦++a.b=1¦+a@b=c¦+a/b=c¦~¦+¦++¦a¦a.b¦+a¦++a¦=1¦+=1¦~=1¦=¦a=¦a= ¦+a=¦ a=1¦a =1¦a= 1¦a=  1 ¦+ a=1¦~ a¦a b=1
true=1¦null=1¦inf=1¦nan=1¦a.true=1¦a:b=1¦a:1¦é=1¦a.é=1¦a#b=1¦a,b=1¦a'b=1¦"a"=1¦'a'=1¦a*=1¦a=b=c¦~a=[1]¦~a={b:1}¦~a=1,2¦A.B=1¦a.b-c=1¦a.$b=1
""".strip("\n")


def overrides():
    seen = []
    for line in KEYS.split("\n"):
        seen += line.split("¦")
    values = []
    for line in SCALARS.split("\n"):
        values += line.split("|")
    for block in (QUOTED, CONTAINERS, FUNCTIONS, TAKEN):
        for line in block.split("\n"):
            values += line.split("¦")
    seen += [f"k={v}" for v in values]
    return list(dict.fromkeys(seen))


# Each row: YAML documents merged from left to right, then resolved.
MERGES = [
    # merging
    ["a: 1", "a: 2"], ["a: 1", "b: 2"], ["a: {b: 1}", "a: {c: 2}"], ["a: {b: 1}", "a: {b: 2}"], ["a: [1, 2]", "a: [3]"],
    ["a: [1]", "a: {b: 1}"], ["a: {b: 1}", "a: [1]"], ["a: 1", "a: {b: 1}"], ["a: {b: 1}", "a: 1"], ["a: {b: 1}", "a: null"],
    ["a: null", "a: {b: 1}"], ["a: 1", "a: ???"], ["a: 1", "a: null"], ["a: [1]", "a: ???"], ["a: {b: 1}", "a: {b: ???}"],
    ["a: {b: {c: 1, d: 2}}", "a: {b: {c: 3}}", "a: {e: 1}"], ["", "a: 1"], ["a: 1", ""], ["a: [1]", "a: 5"], ["a: 5", "a: [1]"],
    ["a: {}", "a: {b: 1}"], ["a: []", "a: [1]"], ["a: [[1]]", "a: [[2, 3]]"], ["a: [{b: 1}]", "a: [{c: 1}]"], ["a: x", "a: true"],
    ["a: {b: 1}", "a: {}"], ["a: [1]", "a: []"], ["a: [1]", "a: null"], ["a: null", "a: [1]"], ["1: a", "1: b"], ["a: {1: x}", "a: {2: y}"],
    # scalars of YAML
    *[[f"a: {v}"] for v in (
        "yes no on off True TRUE tRuE y n Y N ~ null Null NULL none '' \"\" 010 0x1F 0b11 1:30 1:30:10 1e3 1E3 1.0 1. .5 -.5 .5e3 "
        "+1 -1 1_000 0o17 08 1e-3 1e+3 12e03 .inf -.inf .Inf .nan .NaN inf nan 2020-01-01 1.2.3 007 '1' \"true\" 123456789012345678901234567890 "
        "1_0.5 -0 0 -1_0 +.inf 0x 1e abc a-b 'it''s' \"a\\tb\" 190:20:30.15 -1:30 0.1e5"
    ).split(" ")],
    ["a: 1\na: 2"], ["- 1"], ["a"], ["a: 1\n---\nb: 2"], ["a: &x {b: 1}\nc: *x"], ["a: &x {b: 1}\nc:\n  <<: *x\n  d: 2"], ["a: |\n  x\n  y\n"],
    ["a: >\n  x\n  y\n"], ["a:"], ["a: [1, yes, null]"], ["a: {b: }"], ["? a\n: 1"], ["a: 'x: y'"], ["a: \"\\u00e9\""], ["é: 1"], ["a b: 1"], ["yes: 1"], ["null: 1"],
    ["1.5: x"], ["a: !!str 1"], ["a: - 1"], ["a: {b: 1"], ["\ta: 1"], ["a: [1, 2"], ["a: b: c"], ["a: @x"], ["a: 'x"], ["a: #c"], ["a: x #c"], ["a: x#c"],
    # interpolation
    ["a: 1\nb: ${a}"], ["a: 1.0\nb: ${a}"], ["a: true\nb: ${a}"], ["a: null\nb: ${a}"], ["a: x\nb: ${a}"], ["a: [1]\nb: ${a}"], ["a: {b: 1}\nc: ${a}"],
    ["a: 1\nb: x${a}"], ["a: 1.0\nb: x${a}"], ["a: true\nb: x${a}"], ["a: null\nb: x${a}"], ["a: [1, b]\nb: x${a}"], ["a: {c: d}\nb: x${a}"], ["a: 1e-5\nb: x${a}"],
    ["a: 1e16\nb: x${a}"], ["a: {b: 1}\nc: ${a.b}"], ["a: {b: 1}\nc: ${a[b]}"], ["a: [5, 6]\nc: ${a.0}"], ["a: [5, 6]\nc: ${a[1]}"], ["a: [5]\nc: ${a[-1]}"], ["a: [5]\nc: ${a[1]}"],
    ["a: {b: 1, c: '${.b}'}"], ["a: {b: 1, c: {d: '${..b}'}}"], ["a: {c: {d: '${...x}'}}\nx: 9"], ["a: [1, '${.0}']"], ["a: [1, ['${..0}']]"], ["a: ['${..x}']\nx: 2"],
    ["a: b\nb: 7\nc: ${${a}}"], ["k: b\na: {b: 3}\nc: ${a.${k}}"], ["k: 1\na: {1: 3}\nc: ${a.${k}}"], ["a: ${b}\nb: ${c}\nc: 4"], ["a: ${a}"], ["a: ${b}\nb: ${a}"], ["a: ${nope}"],
    ["a: ???\nb: ${a}"], ["a: ${"], ["a: ${}"], ["a: \\${b}"], ["a: 'x\\${b}'"], ["b: 1\na: 'x\\\\${b}'"], ["b: 1\na: 'x\\\\\\${b}'"], ["a: $"], ["a: 'x}'"], ["a: '$b'"], ["a: 'c:\\x'"],
    ["a: 1\nb: ${a}${a}"], ["a: 1\nb: '${a} '"], ["a: 1\nb: ' ${a}'"], ["a: {b: 1}", "c: ${a.b}", "a: {b: 2}"], ["a: {b: ${c}}\nc: 1\nd: ${a.b}"], ["a: {b: ${.c}, c: 1}\nd: ${a}"],
    ["a: ${ b }\nb: 1"], ["a: ${b}\nb: {c: 1}\nd: ${a.c}"], ["x: ${a}\na: {b: '${x.c}', c: 1}"], ["a: {b: '${a}'}"], ["a: '${b.c}'\nb: 5"], ["a: ${b}\nb: [1, 2]\nc: ${a.1}"],
    # resolvers
    ["a: ${oc.env:NEVA_TEST}"], ["a: ${oc.env:NEVA_UNSET}"], ["a: ${oc.env:NEVA_UNSET,3}"], ["a: ${oc.env:NEVA_UNSET,true}"], ["a: ${oc.env:NEVA_UNSET,null}"], ["a: ${oc.env:NEVA_UNSET,''}"],
    ["a: ${oc.env:NEVA_UNSET,'a b'}"], ["a: ${oc.env:NEVA_UNSET,${b}}\nb: q"], ["a: x${oc.env:NEVA_TEST}"], ["a: ${oc.decode:${oc.env:NEVA_TEST}}"], ["a: ${oc.decode:'[1, 2]'}"], ["a: ${oc.decode:'{a: 1}'}"],
    ["a: ${oc.decode:null}"], ["a: ${oc.decode:'1e3'}"], ["a: ${oc.decode:'x y'}"], ["a: ${oc.decode:5}"], ["a: ${oc.decode:'5'}"], ["b: 5\na: ${oc.decode:'${b}'}"], ["a: ${oc.select:b}"], ["a: ${oc.select:b,5}"],
    ["b: 1\na: ${oc.select:b,5}"], ["b: null\na: ${oc.select:b,5}"], ["b: ???\na: ${oc.select:b,5}"], ["b: {c: 1}\na: ${oc.select:b.c}"], ["b: {c: 1, a: '${oc.select:.c}'}"], ["a: ${oc.create:{b: 1}}"],
    ["a: ${oc.create:[1, 2]}"], ["b: {x: 1, y: 2}\na: ${oc.dict.keys:b}"], ["b: {x: 1, y: 2}\na: ${oc.dict.values:b}"], ["b: {x: 1, y: '${.x}'}\na: ${oc.dict.values:b}"], ["b: {x: 1}\na: ${oc.dict.keys:${b}}"],
    ["b: 1\na: ${oc.deprecated:b}"], ["a: ${oc.deprecated:b}"], ["a: ${nope:1}"], ["a: ${oc.env:}"], ["a: ${oc.env:A,B,C}"], ["a: ${oc.dict.keys:b}\nb: 1"], ["a: ${oc.decode:'${'}"], ["a: ${oc.env:'NEVA_TEST'}"],
    ["a: ${oc.create:{b: ${c}}}\nc: 2"], ["a: ${oc.select:'b.c', x}\nb: {c: 4}"], ["a: ${oc.decode: 5}"], ["a: ${oc.decode:'a,b'}"], ["a: ${oc.env:NEVA_UNSET,[1]}"],
]

FILES = {
    "plain": {
        "config.yaml": "a: 1\nb: {c: 2, d: x}\nl: [1, 2]\nn: null\nm: ???\n",
        "other.yaml": "z: 1\n",
        "empty.yaml": "",
    },
    "groups": {
        "config.yaml": "defaults:\n  - db: mysql\n  - server: apache\n  - _self_\napp: {name: x}\n",
        "last.yaml": "defaults:\n  - _self_\n  - db: mysql\ndb: {user: me, extra: 1}\n",
        "first.yaml": "defaults:\n  - db: mysql\n  - _self_\ndb: {user: me}\n",
        "nothing.yaml": "a: 1\n",
        "packaged.yaml": "defaults:\n  - db@src: mysql\n  - db@dst: pg\n",
        "optional.yaml": "defaults:\n  - optional db: nope\n  - _self_\na: 1\n",
        "null.yaml": "defaults:\n  - db: null\n  - _self_\na: 1\n",
        "missing.yaml": "defaults:\n  - db: ???\n",
        "many.yaml": "defaults:\n  - db: [mysql, pg]\n",
        "globe.yaml": "defaults:\n  - db@_global_: mysql\n",
        "interp.yaml": "defaults:\n  - db: mysql\n  - server: apache\n  - combo: ${db}_${server}\n",
        "twice.yaml": "defaults:\n  - db: mysql\n  - db: pg\n",
        "exp.yaml": "defaults:\n  - db: mysql\n  - server: apache\n  - experiment: null\n",
        "include.yaml": "defaults:\n  - nothing\n  - _self_\nb: 2\n",
        "bad.yaml": "defaults:\n  - db: 1\n",
        "badopt.yaml": "defaults:\n  - db: nope\n",
        "under.yaml": "defaults:\n  - nothing@x.y\n",
        "deep.yaml": "defaults:\n  - outer: one\n",
        "over.yaml": "defaults:\n  - outer: one\n  - override outer/inner: b\n",
        "abs.yaml": "defaults:\n  - outer: two\n",
        "db/mysql.yaml": "driver: mysql\nuser: omry\nport: 3306\n",
        "db/pg.yaml": "driver: pg\nuser: postgres\npass: secret\n",
        "server/apache.yaml": "host: localhost\nport: 80\n",
        "server/nginx.yaml": "# @package web.srv\nhost: ng\n",
        "server/glob.yaml": "# @package _global_\nroot_port: 1\n",
        "combo/mysql_apache.yaml": "x: 1\n",
        "combo/pg_apache.yaml": "x: 2\n",
        "experiment/e1.yaml": "# @package _global_\ndefaults:\n  - override /db: pg\n  - _self_\ndb: {user: exp}\n",
        "experiment/e2.yaml": "# @package _global_\ndefaults:\n  - override /server: nginx\ne2: true\n",
        "outer/one.yaml": "defaults:\n  - inner: a\n  - _self_\nname: one\n",
        "outer/two.yaml": "defaults:\n  - /db: mysql\n  - _self_\nname: two\n",
        "outer/three.yaml": "defaults:\n  - inner@_here_: a\n  - inner@_global_.top: b\nname: three\n",
        "outer/inner/a.yaml": "v: a\n",
        "outer/inner/b.yaml": "v: b\n",
    },
}

COMPOSITIONS = [
    *[("plain", "config", ["m=0", *o]) for o in (
        [], ["a=2"], ["b.c=5"], ["b.new=1"], ["+b.new=1"], ["++b.new=1"], ["+a=2"], ["++a=2"], ["~a"], ["~a=1"], ["~a=1.0"], ["~a='1'"], ["~a=2"], ["~nope"], ["~b"], ["~b.c"], ["~n"],
        ["+n=5"], ["n=5"], ["l=[3]"], ["l.0=9"], ["l.2=9"], ["+l=[9]"], ["b={c:7}"], ["b={new:1}"], ["+b={new:1}"], ["b=1"], ["b=[1]"], ["a={x:1}"], ["+x={}"], ["+x={}", "x.y=1"], ["+x={}", "+x.y=1"],
        ["+x.y.z=1"], ["a=1,2"], ["a='1,2'"], ["a=${b.c}"], ["a='${b.c}x'"], ["a=\\${b}"], ["b.d=null"], ["a=x y"], ["+new=[1,{a:b}]"], ["nope=1"], ["a=1", "a=2"], ["b.c=1", "~b.c"], ["a.x=1"], ["++b={q:1}"], ["a="], ["+e=''"],
    )],
    ("plain", "empty", []), ("plain", "empty", ["+a=1"]), ("plain", "nope", []), ("plain", "config", []),
    *[("groups", *c) for c in (
        ("config", []), ("config", ["db=pg"]), ("config", ["db=pg", "db.user=x"]), ("config", ["db.user=x", "db=pg"]), ("config", ["db=nope"]), ("config", ["~db"]), ("config", ["~db=mysql"]), ("config", ["~db=pg"]),
        ("config", ["+db=pg"]), ("config", ["++db=pg"]), ("config", ["db=[mysql,pg]"]), ("config", ["db=[]"]), ("config", ["db=null"]), ("config", ["+combo=pg_apache"]), ("config", ["+db@second=pg"]), ("config", ["server=nginx"]), ("config", ["server=glob"]),
        ("config", ["+experiment=e1"]), ("config", ["+experiment=e2"]), ("config", ["+experiment=e1", "db=mysql"]), ("config", ["db=mysql,pg"]), ("config", ["combo=pg_apache"]), ("config", ["db={user:x}"]), ("config", ["+nogroup=x"]),
        ("last", []), ("first", []), ("nothing", []), ("nothing", ["db=pg"]), ("nothing", ["+db=pg"]), ("packaged", []), ("packaged", ["db@src=pg"]), ("packaged", ["db@nope=pg"]), ("packaged", ["~db@src"]),
        ("optional", []), ("null", []), ("null", ["db=pg"]), ("missing", []), ("missing", ["db=pg"]), ("many", []), ("many", ["db=pg"]), ("globe", []), ("globe", ["db@_global_=pg"]), ("interp", []), ("interp", ["db=pg"]), ("twice", []),
        ("exp", []), ("exp", ["experiment=e1"]), ("exp", ["experiment=[e1,e2]"]), ("include", []), ("bad", []), ("badopt", []), ("under", []), ("deep", []), ("deep", ["outer/inner=b"]), ("deep", ["outer=two"]), ("deep", ["outer=three"]), ("over", []), ("over", ["outer/inner=a"]),
        ("abs", []), ("abs", ["db@outer.db=pg"]), ("config", ["+outer=one"]), ("config", ["+outer=three"]), ("config", ["~server", "~db"]), ("config", ["app.name=y", "+app.v=1"]),
    )],
]

SWEEPS = [
    ["a=1,2", "b=x,y"], ["a=1"], ["a=range(3)"], ["a=1,2", "a=3,4"], ["a=1,2", "+a=3"], ["a=choice(x)", "b=1"], ["a=range(0,1,0.25)"], ["a='x y',z"], ["a=x y,z"], ["a=true,false"], ["a=1e-5,1e5,1e16"],
    ["~a", "b=1,2"], ["a=[1,2],[3]"], ["a={x:1},{y:2}"], ["a=null,1"], ["a=${b},1"], ["a=str(1),2"], ["a@b=x,y"], ["a=1,2,3", "b=4", "c=5,6"], ["a=range(3,0,-1)"], ["a=sort(3,1,2)"], ["a=int(1.5,2.5)"],
]
