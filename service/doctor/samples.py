"""A tiny video of each codec: two frames of 64×64, the left half red and the right half blue.

Made by FFmpeg from two colour sources, so they are nobody's data:

    ffmpeg -filter_complex 'color=c=red:s=32x64:r=25[a];color=c=blue:s=32x64:r=25[b];[a][b]hstack=inputs=2' -frames:v 2 \
        -pix_fmt yuv420p -bitexact -map_metadata -1 -c:v ENCODER FILE    # x264, x265: without the SEI that names the encoder

Compressed by zlib and written in base 85.
"""

from __future__ import annotations

import base64
import zlib

_TEXTS = {
    "h264": (
        "c-muNU|>v7Vc=SG(?#uo3j+f)0}F^aVdF6^f&nO(@%r&;r2{}lYDWu${{Mfsqd)6R<I>u2a^s<A>-GmMJLU9>VFGg}N7MJ7nj!|7#{q}"
        "^WO|iC1r<S>9cL-#IPL#u(R%;@*@q>N"
    ),
    "hevc": (
        "c-muNU|@7$<YD~(pD}@fftg_fhyWtFsWUhkfO1ZZjA#-I6dGBlg=MOo`XJWO01^QbJS`x#E{q3@wkSCOSsIM%WgEVqZ}|W5jQpuMapQ~"
        "k|N8u?oaz2mRkgSQq?C#A0%x7TG3#F~0J2{qod"
    ),
    "vp8": (
        "c-nLE_H<)lP+$lPurP37aA1&RU|?VbVkQO%2x35h09J;%j9MU74DKAQtsSi`9ZXD2rB}Is@IT<!3>JJ~-(bH&x`Uxpb5;LBrImYcPJO`"
        "e?{D7f!y@$wl4tLo4ZiWdK0eP)t@%!shE2@09lQ=gP}@M@A|nH<z#0Y#28js$FAN-g4GaLm>nVE"
    ),
    "vp9": (
        "c-nLE_H<)lP+$lPurzRBaA1&RU|?VbVkQO%uwX!dCeLOk2IddU-xw@ZWF)*87z`2^7@{Qp|NrCS{{P>{nEyba<q9OOJdy{Jzvejq|9^d"
        "P<OhDJnIO={;4o<pLjVH<vjPJ{NC5zh{Uul"
    ),
    "av1": (
        "c-nLE_H<)lP+)KjGca^uaA1&RU|?VbVkQO%h-N?lAqFlkkktDBv*Q&wjJyRH4gh%#It`o>pNxclu&lVU(|@uv|2nHB3J1-l_}Tw%oM<Q"
        ">@#EC$-^aJ<Z_m_9XcKyO>{m$R)fH`P&um|Fj@4qb&vZ43Jig0QM4{F~tT7TaU_Q{mz`zDJALzQ70sxpoEO`"
    ),
    "mpeg4": (
        "c-jl{baN9DXJBv)^HlKh3=XjnVqnNfDauJK%gnG~U|?{V!@#g2kpT<@I2jn2AWQ~EhzNrNNDTuf0GahbfPta7q$mf7!Df|ZrWCvR2ACk"
        "L1DPWUWrNJF0OJ2Z0F!qBLZJRM4Io<sYL^38p9BNgECWoty+ZxGC4hFbK=}p+Daj0@U=)mkQ7{Td!6+C7qhJ(_f>AIEM!_f;QJ}1#sK5"
        "n@4;p`PV1SJ)Fe0%L;xLR3Kw}LoK!y1!xj8_T@nZysD<~{}Fps9MQ7{TdA^?r~&I8i9`DK})G1m&PDB}iT@yNKfQy5a9GAb|}>Fr=R%f"
        "!MV;tb?&W)NTpQriR)0$bT`=rlf*&i#`ZyNy|g>9=(5Zw7`16ETJV<Zl1C?f$Xb^<Whbu&DSAvR@El|F(b+%I|>&%?A<><}qZZR2V8SK"
        "t_cH7$Bp>6%2?`;uatV=>!1LU}t6"
    ),
    "mpeg2": (
        "c-muNVBE~Y;2`|}{{smI2F9%-T?~v2K)|?zfrG(;0mR||{{tk`|NpaN1CYTe{7Gb~{>=RaJH3LG{_NHC{uTAF7Q_b1G2xM8#v{jqM~;C"
        "Z{Qqx|#akQYp)L?ADF9gpp_m~Q3y=Z;-xNfn"
    ),
    "mpeg1": (
        "c-muNVBE~Y;2`|}{{smI2F4u>91IRXnt_4;{|_L|DEvuess7CU1v|Zhl>Y41^!^p~uNK4x$}!=R`|GOd{d3vBCM<eb@R-NI5dQy11ISX"
        "Lk^+$VLWMFQEkGUs*OojK"
    ),
    "mjpeg": (
        "c-rllzfZzY5XZl-R9XrlEpfn&I1ycNFk!PsgHnYMf5lN^V<3S*&=5xkCtV$#OiYNz&BVol!Nu9c_+#NuU}Pcny%u7HKY{zS*WO+4-D@s"
        "Qhwn}{levfks|VS{c6N6!9Ro^sqf%^^OKAY+4bU#aMGpaz=Yn||n4$)gh+bVCI6Z4rxVgQWW&1Q|6*l~JqR-sW7rh7E9M0&u$q&B%B+3"
        "2ca4*wc7l+#`HMzI7pWlk}z2#w?O4-LC2!bF8f*=TjAP8crXx1C`bzdy>2NNS*f%*Ku{K&=;T7%3BYj(B5&r*Mi=PG8=5775T5Yvdze0"
        "2$^)|zFZxw=~Jr_+UQWwIGC$@{&+`N0}gSuo=g^rI+>s;c}dT<)o%P{_M!nih$K!_jEeFlL=s<iXh3D+HO~UrJSi`gj?PiHy^Mp$fS<z"
        "~&(t2pDj_5eYCJaDN3??CrUSP29g9VzFag77)Y2(+9L(?DiUROM6^yNiTBy4lE%(<c{Ecfu<m)P`1yP67Y0*9iA>f@WmSQ;$KzsemD"
    ),
    "prores": (
        "c-rk#O-_SA6n;=@TiW=O)T9d%Nvu0f)Dy5UO&6N5a^+@Zz!I5)%!tvAJ%G`LUciO-@CIJOL~o&Q0NZIb#>BXDVEEqe_uf1J0NQ~#Pfmn"
        "w1L#m7)XzfdqwX+D1b}9RUJ}3^K){kCaKIUXuIm65!>Cs0YPANUghrt?%rPR=8)mD71!*;#^GhWx|2E&jW=CLbf>m6bI@F<7eYtrww^l"
        "~R(-o}Ub}HAaP+#x;h3|hh-_1t9XK|ci8xhL}6sA_?6(25WAn(c2rlV$c2fkf6c6~#n<QU}xah%tze8J{^%KS-PXWT&7r-CC|e#C{6;Z"
        "Ab32S!7Jg3ajc*|%{UaQT)i8v`1pQecB9&GP?lvReCSi2GznBOik_mxaRs?d^=^q-vY%A4C+1PSeO%iJCh^kTDN*X~ARB)DM&cw8}gwK"
        "XY*y$!~}YPL-I1B;HURQ?Iw@=ChX@e*oyC*#C%V?vl*2lQd3!{^d*SyvaeBLFh+0-C{y`QgX}P;X-hwo?g@f3;XgEd+E!ujlPT0WtDcc"
        "d9f1TeFxRSoxl"
    ),
}


def samples() -> dict[str, bytes]:
    """The files by codec, as `VideoInfo.codec` names it; the most usual first."""
    return {codec: zlib.decompress(base64.b85decode(text)) for codec, text in _TEXTS.items()}
